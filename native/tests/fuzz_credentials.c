/* A libFuzzer target for hwsigner-credentials: an input is all that an agent sends before it closes the connection. */
#define main program
#define TERMINAL "/dev/null"
#include "../credentials.c"
#undef main

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static struct answer answer;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0 || send(ends[1], data, size, MSG_NOSIGNAL) != (ssize_t)size) {
        abort();
    }
    close(ends[1]);
    answer.fd = ends[0];
    answer.size = 0;
    answer.status = -1;
    answer.patience = FIRST_BYTE;
    answer.deadline = now() + LONGEST;
    memset(answer.data, 'x', sizeof answer.data);
    enum outcome outcome = read_answer(&answer);
    /* The last byte of `data` is unchanged, and all that the program would print came from the agent. */
    if (answer.size >= sizeof answer.data || answer.data[sizeof answer.data - 1] != 'x') {
        abort();
    }
    if (outcome == ANSWERED) {
        bool is_whole = answer.body_size >= 1 && answer.body_size <= BODY_SIZE && answer.body_size <= answer.size;
        if (!is_whole || answer.status < 0 || answer.status > MAX_STATUS ||
            memmem(data, size, answer.data, answer.body_size) == NULL) {
            abort();
        }
    }
    close(ends[0]);
    return 0;
}
