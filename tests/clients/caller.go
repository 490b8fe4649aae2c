// Prints who the caller is, by the AWS SDK for Go v2, once for each line that it reads.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func main() {
	settings, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	client := sts.NewFromConfig(settings)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		caller, err := client.GetCallerIdentity(context.Background(), nil)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(aws.ToString(caller.Arn))
	}
}
