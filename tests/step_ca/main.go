// step-ca, from the libraries that Debian has of it. Debian does not have the program.
package main

import (
	"fmt"
	"os"

	_ "github.com/smallstep/certificates/cas/softcas"
	"github.com/smallstep/certificates/commands"
	_ "github.com/smallstep/certificates/kms/softkms"
	"github.com/urfave/cli"
)

func main() {
	app := cli.NewApp()
	app.Flags = commands.AppCommand.Flags
	app.Action = func(context *cli.Context) error {
		return cli.HandleAction(commands.AppCommand.Action, context)
	}
	if err := app.Run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
