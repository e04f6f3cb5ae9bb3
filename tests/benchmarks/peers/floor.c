// The floor: what send and recv cost by themselves. floor PORT
// Takes any handshake for a websocket's, answers each frame with one that was made before, and sends what POST /emit brings
// to all. Checks nothing and keeps nothing but the sockets.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

static const char welcome[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
static const char done[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
static const char ack[] = "\x81\x1c{\"ack\":7,\"data\":{\"ok\":true}}";
static int members[200000], count;

static void publish(const char *request) {
    char out[70000];
    const char *from = strstr(request, "\"data\":") + 7;
    size_t size = strstr(from, "}}") + 1 - from, head = 2;
    out[0] = (char)0x81;
    if (size < 126) out[1] = (char)size;
    else { out[1] = 126; out[2] = (char)(size >> 8); out[3] = (char)size; head = 4; }
    memcpy(out + head, from, size);
    for (int i = 0; i < count; i++) if (send(members[i], out, head + size, MSG_NOSIGNAL) < 0) perror("send");
}

int main(int argc, char **argv) {
    static char data[70001];
    static char upgraded[1 << 20];
    if (argc < 2) return 2;
    struct rlimit files; getrlimit(RLIMIT_NOFILE, &files); files.rlim_cur = files.rlim_max; setrlimit(RLIMIT_NOFILE, &files);
    int listening = socket(AF_INET, SOCK_STREAM, 0), one = 1, poll = epoll_create1(0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(0x7f000001)};
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&at, sizeof at) || listen(listening, 4096)) { perror("listen"); return 1; }
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listening}, ready[512];
    epoll_ctl(poll, EPOLL_CTL_ADD, listening, &e);
    for (;;) {
        int n = epoll_wait(poll, ready, 512, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == listening) {
                fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0 || fd >= (int)sizeof upgraded) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                e.data.fd = fd; upgraded[fd] = 0;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e);
                continue;
            }
            ssize_t got = recv(fd, data, sizeof data - 1, 0);
            if (got <= 0) {
                close(fd);
                for (int k = 0; upgraded[fd] && k < count; k++) if (members[k] == fd) { members[k] = members[--count]; break; }
                continue;
            }
            data[got] = 0;
            if (!memcmp(data, "POST", 4)) {
                for (char *at = data; (at = strstr(at, "POST /emit")); at++) {
                    publish(at);
                    send(fd, done, sizeof done - 1, MSG_NOSIGNAL);
                }
            }
            else if (!memcmp(data, "GET", 3)) { upgraded[fd] = 1; members[count++] = fd; send(fd, welcome, sizeof welcome - 1, MSG_NOSIGNAL); }
            else send(fd, ack, sizeof ack - 1, MSG_NOSIGNAL);
        }
    }
}
