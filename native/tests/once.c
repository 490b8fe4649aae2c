/* Run fuzz.c once on each file named: for compilers without libFuzzer. */
#include <stdio.h>

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int main(int count, char **names) {
    for (int i = 1; i < count; i++) {
        unsigned char data[1 << 16];
        FILE *file = fopen(names[i], "rb");
        if (file == NULL) {
            perror(names[i]);
            return 1;
        }
        LLVMFuzzerTestOneInput(data, fread(data, 1, sizeof data, file));
        fclose(file);
    }
    return 0;
}
