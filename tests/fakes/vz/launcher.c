/*
 * What each command of the stand-ins is, for whoever starts it: has the server of the stand-ins run the command in a process
 * of its own, and ends as that ended.
 *
 * It is the interpreter of the command's file, so its words are its own path, the file's, and the arguments. The server
 * listens at its own path with ".socket" behind it. server.py has the other side.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const int passed_on[] = {SIGTERM, SIGINT, SIGHUP};
static volatile sig_atomic_t last;
static pid_t command;

static void fail(const char *what) {
    fprintf(stderr, "stand-in for vzctl: %s: %s\n", what, strerror(errno));
    exit(250);
}

static void pass_on(int number) {
    last = number;
    kill(command, number);
}

/* How many bytes the words have, each with its NUL. */
static size_t length(char **words) {
    size_t bytes = 0;
    for (; *words; words++)
        bytes += strlen(*words) + 1;
    return bytes;
}

static char *append(char *end, char **words) {
    for (; *words; words++)
        end = stpcpy(end, *words) + 1;
    return end;
}

/* Send how many bytes come, how many words are arguments, both; and standard streams and directory with the first byte. */
static void ask(int server, int argc, char **argv) {
    uint32_t head[2] = {length(argv) + length(environ), argc};
    size_t total = sizeof head + head[0], sent = 0;
    char *text = malloc(total);
    int files[4] = {0, 1, 2, open(".", O_PATH | O_DIRECTORY)};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof files)];
    } control = {.header = {CMSG_LEN(sizeof files), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec part = {text, total};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};

    if (!text)
        fail("memory");
    memcpy(text, head, sizeof head);
    append(append(text + sizeof head, argv), environ);
    memcpy(CMSG_DATA(&control.header), files, sizeof files);
    while (sent < total) {
        ssize_t now = sendmsg(server, &message, MSG_NOSIGNAL);
        if (now < 0)
            fail("asking the server");
        sent += now;
        part = (struct iovec){text + sent, total - sent};
        message.msg_control = NULL;
        message.msg_controllen = 0;
    }
}

/* Read a number. Ends as the command did if it ended without one: by a signal. */
static int32_t answer(int server) {
    int32_t number;
    ssize_t got;
    do
        got = recv(server, &number, sizeof number, MSG_WAITALL);
    while (got < 0 && errno == EINTR);
    if (got == sizeof number)
        return number;
    if (last) {
        signal(last, SIG_DFL);
        raise(last);
    }
    kill(getpid(), SIGKILL);
    return 250;
}

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sigset_t signals;

    sigemptyset(&signals);
    for (size_t i = 0; i < sizeof passed_on / sizeof *passed_on; i++)
        sigaddset(&signals, passed_on[i]);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    if (snprintf(address.sun_path, sizeof address.sun_path, "%s.socket", argv[0]) >= (int)sizeof address.sun_path)
        errno = ENAMETOOLONG, fail(argv[0]);
    if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof address) < 0)
        fail("reaching the server");
    ask(server, argc, argv);
    command = answer(server);
    for (size_t i = 0; i < sizeof passed_on / sizeof *passed_on; i++)
        if (signal(passed_on[i], pass_on) == SIG_IGN)
            signal(passed_on[i], SIG_IGN);
    sigprocmask(SIG_UNBLOCK, &signals, NULL);
    return answer(server);
}
