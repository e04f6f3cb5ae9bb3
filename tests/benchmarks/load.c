// The clients of bin/bench, all in one thread: websockets and long-polling clients that follow a script to get in, count
// what they are sent, and answer heartbeats. Python tells it what to do, one line on stdin; it answers with one line of
// JSON on stdout, with the CPU time it used itself.
//
//   open    COUNT WINDOW DEADLINE_S PORT SOURCE SCRIPT TOKENS   so many more clients, WINDOW of them on the way at a time
//   publish ROUNDS PER_S BURST DEADLINE_S PORT REQUEST          BURST HTTP requests at once, PER_S rounds a second;
//                                                               0 ROUNDS: until there is another line, of any text
//   echo    SECONDS MESSAGE ANSWER                              each client sends MESSAGE whenever ANSWER came
//   http    SECONDS CONNECTIONS PORT REQUEST                    requests, one under way on each connection
//   idle    SECONDS                                             answer heartbeats
//   close   COUNT                                               the last COUNT clients go, without a word
//
// A script has lines: `path /p` (with transport=polling in it: a polling client), `send TEXT`, `wait PREFIX`. $TOKEN is the
// client's line of TOKENS. In a REQUEST, $TIME_OF_PUBLICATION becomes 16 digits, microseconds since 1970 at which the
// round was due; a delivery is a message with "at":<16 digits> in it, and its latency counts from there, so that time in
// which the server, or this program, stood still is in it. $NUMBER becomes six digits, another with each request.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_STEPS = 64, MAX_PUBLISHERS = 64, SOURCE_PORTS = 20000, READ = 1 << 20 };
enum kind { WEBSOCKET, POLLING, REQUESTS };
enum state { CONNECTING, UPGRADING, ENTERING, IN, GONE };

struct step { char send; char *text; };
struct script { char *path; enum kind kind; struct step steps[MAX_STEPS]; int count; };

struct client {
    int fd, number, step, port;
    enum kind kind;
    enum state state;
    int64_t began;      // µs: when it was opened, or its request was sent
    char *part;         // what is not complete yet
    uint32_t have, room;
    char *sid;          // polling
    int posting, pong;  // polling: what is under way; a heartbeat is to be answered
    struct script *script;
    const char *token;
};

static struct client **clients;
static int count, room_for, epoll, timer, failed;
static char first_failure[256];
static char *data;
static char **tokens; static int token_count;
static struct script script;
static double *samples; static size_t sampled, sample_room;
static long deliveries, published, answered, refused; static int64_t last_delivery;
static struct client *publishers[MAX_PUBLISHERS]; static int publisher_count;
static char *echo_frame; static size_t echo_size; static char *echo_answer; static size_t echo_answer_size;
static int64_t echo_until;
static char *request; static int64_t http_until; static long number;
static int entering; // clients on their way in

static int64_t clock_us(clockid_t id) { struct timespec t; clock_gettime(id, &t); return t.tv_sec * 1000000LL + t.tv_nsec / 1000; }
static int64_t now_us(void) { return clock_us(CLOCK_REALTIME); }

static void die(const char *format, ...) {
    va_list args; va_start(args, format); fputs("load: ", stderr); vfprintf(stderr, format, args); fputc('\n', stderr); exit(1);
}

static void *grown(void *old, size_t size) { void *p = realloc(old, size); if (!p) die("out of memory"); return p; }

static char *read_file(const char *name) {
    FILE *f = fopen(name, "r"); if (!f) die("%s: %s", name, strerror(errno));
    char *text = NULL; size_t size = 0, got;
    do { text = grown(text, size + 65537); got = fread(text + size, 1, 65536, f); size += got; } while (got);
    text[size] = 0; fclose(f); return text;
}

static void sample(double ms) {
    if (sampled == sample_room) samples = grown(samples, (sample_room = sample_room ? 2 * sample_room : 65536) * sizeof *samples);
    samples[sampled++] = ms;
}

static void fail(struct client *c, const char *format, ...) {
    if (!failed++) { va_list args; va_start(args, format); vsnprintf(first_failure, sizeof first_failure, format, args); }
    for (char *p = first_failure; *p; p++) if (*p == '"' || *p == '\\' || *p < ' ') *p = '\'';
    if (c->state < IN && c->kind != REQUESTS) entering--;
    c->state = GONE;
    if (c->fd >= 0) { close(c->fd); c->fd = -1; }
    free(c->part); c->part = NULL; c->have = c->room = 0;
}

static void transmit(struct client *c, const char *bytes, size_t size) {
    ssize_t sent = send(c->fd, bytes, size, MSG_NOSIGNAL);
    if (sent != (ssize_t)size) fail(c, "send: %s", sent < 0 ? strerror(errno) : "the server does not read");
}

static size_t frame(char *out, const char *text, size_t size) { // RFC 6455 5.2: a text frame, masked
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t at = 0;
    out[at++] = (char)0x81;
    if (size < 126) out[at++] = (char)(0x80 | size);
    else { out[at++] = (char)(0x80 | 126); out[at++] = (char)(size >> 8); out[at++] = (char)size; }
    memcpy(out + at, mask, 4); at += 4;
    for (size_t i = 0; i < size; i++) out[at + i] = text[i] ^ mask[i & 3];
    return at + size;
}

static void say(struct client *c, const char *text, size_t size) {
    char out[70000];
    transmit(c, out, frame(out, text, size));
}

static size_t filled(char *out, const char *text, const char *name, const char *value) { // each place of name filled
    size_t size = 0, skip = strlen(name), more = strlen(value);
    for (const char *at; (at = strstr(text, name)); text = at + skip) {
        memcpy(out + size, text, at - text); size += at - text;
        memcpy(out + size, value, more); size += more;
    }
    return size + (size_t)sprintf(out + size, "%s", text);
}

// ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────────

static struct client *connected_to(int port, int source, enum kind kind) {
    struct client *c = calloc(1, sizeof *c); if (!c) die("out of memory");
    c->port = port; c->kind = kind; c->state = CONNECTING; c->began = now_us();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { if (kind != REQUESTS) entering++; fail(c, "socket: %s", strerror(errno)); return c; }
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001 + (source >= 0 ? 256 + source : 0))};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(0x7f000001)};
    if (source >= 0) {
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) die("bind: %s", strerror(errno));
    }
    if (kind != REQUESTS) entering++;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) { fail(c, "connect: %s", strerror(errno)); return c; }
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
    return c;
}

static void open_next(int port, int source, struct script *s) {
    if (count == room_for) clients = grown(clients, (room_for = room_for ? 2 * room_for : 1024) * sizeof *clients);
    struct client *c = connected_to(port, source < 0 ? -1 : source + count / SOURCE_PORTS, s->kind);
    c->script = s; c->number = count; c->token = token_count ? tokens[count % token_count] : "";
    clients[count++] = c;
}

static void http(struct client *c, const char *method, const char *path, const char *body) {
    char out[70000];
    size_t size = body ? strlen(body) : 0;
    int at = sprintf(out, "%s %s%s%s HTTP/1.1\r\nHost: localhost\r\n", method, path, c->sid ? "&sid=" : "", c->sid ? c->sid : "");
    if (body) at += sprintf(out + at, "Content-Type: text/plain;charset=UTF-8\r\nContent-Length: %zu\r\n", size);
    at += sprintf(out + at, "\r\n%s", body ? body : "");
    transmit(c, out, at);
}

static void go_on(struct client *c) { // after what the script waited for has come
    char out[70000];
    for (; c->step < c->script->count; c->step++) {
        struct step *s = &c->script->steps[c->step];
        if (!s->send) {
            if (c->kind == POLLING && !c->posting) http(c, "GET", c->script->path, NULL);
            return;
        }
        size_t size = filled(out, s->text, "$TOKEN", c->token);
        if (c->kind == POLLING) { c->step++; c->posting = 1; http(c, "POST", c->script->path, out); return; }
        say(c, out, size);
        if (c->state == GONE) return;
    }
    c->state = IN; entering--;
    sample((now_us() - c->began) / 1000.0);
    if (c->kind == POLLING) http(c, "GET", c->script->path, NULL);
}

static void next_request(struct client *c, int64_t at_us) {
    char timed[70000], out[70000], text[32];
    sprintf(text, "%016lld", (long long)at_us);
    filled(timed, request, "$TIME_OF_PUBLICATION", text);
    sprintf(text, "%06ld", number++ % 1000000);
    size_t size = filled(out, timed, "$NUMBER", text);
    c->began = at_us;
    transmit(c, out, size);
}

static void begin(struct client *c) { // TCP is there
    int error = 0; socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) { fail(c, "connect: %s", strerror(error)); return; }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e);
    if (c->kind == REQUESTS) { c->state = IN; if (now_us() < http_until) next_request(c, now_us()); return; }
    if (c->kind == POLLING) { c->state = ENTERING; go_on(c); return; }
    char out[4096];
    int n = sprintf(out, "GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", c->script->path);
    c->state = UPGRADING;
    transmit(c, out, n);
}

// ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────────────

static void message(struct client *c, const char *text, size_t size, int64_t now) {
    if (size == 1 && text[0] == '2' ) { // Engine.IO's ping
        if (c->kind == POLLING) c->pong = 1; else say(c, "3", 1);
        return;
    }
    if (c->state == ENTERING) {
        struct step *s = &c->script->steps[c->step];
        if (!s->send && size >= strlen(s->text) && !memcmp(text, s->text, strlen(s->text))) {
            c->step++;
            if (c->kind == WEBSOCKET) go_on(c);
        } else if (size > 1 && !memcmp(text, "44", 2)) fail(c, "refused: %.*s", size < 200 ? (int)size : 200, text);
        return;
    }
    if (echo_frame && size >= echo_answer_size && !memcmp(text, echo_answer, echo_answer_size)) {
        sample((now - c->began) / 1000.0);
        answered++;
        if (now < echo_until) { c->began = now; transmit(c, echo_frame, echo_size); }
        return;
    }
    const char *at = memmem(text, size, "\"at\":", 5);
    if (at && at + 21 <= text + size) {
        int64_t then = 0;
        for (int i = 5; i < 21; i++) then = 10 * then + (at[i] - '0');
        sample((now - then) / 1000.0);
        deliveries++; last_delivery = now;
    }
}

static size_t frames(struct client *c, const char *bytes, size_t size, int64_t now) { // returns how much of it was whole
    size_t used = 0;
    while (size - used >= 2) {
        const unsigned char *p = (const unsigned char *)bytes + used;
        size_t head = 2, length = p[1] & 127;
        if (length == 126) head = 4; else if (length == 127) head = 10;
        if (size - used < head) break;
        if (length == 126) length = p[2] << 8 | p[3];
        else if (length == 127) { length = 0; for (int i = 2; i < 10; i++) length = length << 8 | p[i]; }
        if (size - used < head + length) break;
        switch (p[0] & 15) {
        case 1: message(c, (const char *)p + head, length, now); break;
        case 8: fail(c, "the server closed a websocket, %d", length >= 2 ? p[head] << 8 | p[head + 1] : 0); break;
        case 9: { // the pong has the ping's payload
            char pong[140];
            size_t whole = frame(pong, (const char *)p + head, length < 126 ? length : 0);
            pong[0] = (char)0x8a;
            transmit(c, pong, whole);
        }
        }
        if (c->state == GONE) return size;
        used += head + length;
    }
    return used;
}

static void payload(struct client *c, char *text, size_t size, int64_t now) { // of a poll: packets between \x1e
    for (char *end = text + size, *next; text < end; text = next + 1) {
        next = memchr(text, 0x1e, end - text);
        if (!next) next = end;
        char *sid;
        if (!c->sid && (sid = memmem(text, next - text, "\"sid\":\"", 7))) {
            char *quote = memchr(sid + 7, '"', next - sid - 7);
            c->sid = strndup(sid + 7, quote - sid - 7);
        }
        message(c, text, next - text, now);
        if (c->state == GONE) return;
    }
}

static void answer(struct client *c, int status, char *body, size_t size, int64_t now) { // of an HTTP request
    if (c->kind == REQUESTS) {
        answered++;
        if (status / 100 != 2) { if (!refused++) fprintf(stderr, "load: answered %d %.*s\n", status, (int)size, body); }
        if (http_until) {
            sample((now - c->began) / 1000.0);
            if (now < http_until) next_request(c, now);
        }
        return;
    }
    if (status != 200) { fail(c, "a poll was answered %d", status); return; }
    if (c->posting) c->posting = 0; else payload(c, body, size, now);
    if (c->state == GONE) return;
    if (c->pong) { c->pong = 0; c->posting = 1; http(c, "POST", c->script->path, "3"); }
    else if (c->state == ENTERING) go_on(c);
    else http(c, "GET", c->script->path, NULL);
}

static size_t responses(struct client *c, char *bytes, size_t size, int64_t now) {
    size_t used = 0;
    while (used < size) {
        char *start = bytes + used, *end = memmem(start, size - used, "\r\n\r\n", 4);
        if (!end) break;
        char *body = end + 4; size_t left = size - (body - bytes), length = 0;
        long declared = -1; int chunked = 0;
        for (char *line = memchr(start, '\n', end - start); line && line < end; line = memchr(line + 1, '\n', end - line)) {
            if (!strncasecmp(line + 1, "content-length:", 15)) declared = atol(line + 16);
            if (!strncasecmp(line + 1, "transfer-encoding: chunked", 26)) chunked = 1;
        }
        if (chunked) { // joined in place
            char *from = body, *to = body, *stop = bytes + size;
            for (;;) {
                char *eol = memmem(from, stop - from, "\r\n", 2); if (!eol) return used;
                size_t chunk = strtoul(from, NULL, 16);
                if (eol + 2 + chunk + 2 > stop) return used; // what was joined is joined anew: so look before
                from = eol + 2;
                if (!chunk) { from += 2; break; }
                from += chunk + 2; length += chunk;
            }
            for (char *at = body; ; ) {
                char *eol = memmem(at, stop - at, "\r\n", 2); size_t chunk = strtoul(at, NULL, 16);
                if (!chunk) break;
                memmove(to, eol + 2, chunk); to += chunk; at = eol + 2 + chunk + 2;
            }
            used = from - bytes;
        } else {
            length = declared > 0 ? declared : 0;
            if (left < length) break;
            used = body - bytes + length;
        }
        answer(c, atoi(start + 9), body, length, now);
        if (c->state == GONE) return size;
    }
    return used;
}

static void readable(struct client *c) {
    memcpy(data, c->part ? c->part : "", c->have);
    ssize_t got = recv(c->fd, data + c->have, READ - c->have, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { fail(c, "the server ended a connection: %s", got ? strerror(errno) : "EOF"); return; }
    int64_t now = now_us();
    size_t size = c->have + got, used = 0;
    if (c->state == UPGRADING) {
        char *end = memmem(data, size, "\r\n\r\n", 4);
        if (end) {
            if (memcmp(data, "HTTP/1.1 101", 12)) { fail(c, "no websocket: %.*s", (int)(size < 60 ? size : 60), data); return; }
            used = end + 4 - data;
            c->state = ENTERING;
            go_on(c);
        }
    }
    if (c->state == GONE) return;
    if (c->kind == WEBSOCKET) { if (c->state >= ENTERING) used += frames(c, data + used, size - used, now); }
    else used = responses(c, data, size, now);
    if (c->state == GONE) return;
    c->have = size - used;
    if (c->have > c->room) c->part = grown(c->part, c->room = c->have);
    if (c->have) memcpy(c->part, data + used, c->have);
    else if (c->part) { free(c->part); c->part = NULL; c->room = 0; }
}

static void turn(int timeout_ms) {
    struct epoll_event ready[512];
    int n = epoll_wait(epoll, ready, 512, timeout_ms);
    for (int i = 0; i < n; i++) {
        struct client *c = ready[i].data.ptr;
        uint64_t ticks;
        if (!c) { if (read(timer, &ticks, 8) < 0 && errno != EAGAIN) die("timer: %s", strerror(errno)); continue; }
        if (c->state == GONE) continue;
        if (c->state == CONNECTING) begin(c);
        else readable(c);
    }
}

static void wake_at(int64_t at_us) {
    struct itimerspec t = {.it_value = {at_us / 1000000, at_us % 1000000 * 1000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
}

// ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────

static int by_size(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return (x > y) - (x < y); }

static int in(void) { int n = 0; for (int i = 0; i < count; i++) n += clients[i]->state == IN; return n; }

static int64_t began_us, cpu_us;

static void start(void) {
    sampled = 0; deliveries = published = answered = refused = 0; failed = 0; first_failure[0] = 0;
    cpu_us = clock_us(CLOCK_PROCESS_CPUTIME_ID); began_us = now_us();
}

static void report(int64_t ended_us) {
    double wall = (ended_us - began_us) / 1e6, used = (clock_us(CLOCK_PROCESS_CPUTIME_ID) - cpu_us) / 1e6, sum = 0;
    double busy = used / ((now_us() - began_us) / 1e6);
    qsort(samples, sampled, sizeof *samples, by_size);
    for (size_t i = 0; i < sampled; i++) sum += samples[i];
    printf("{\"in\": %d, \"failed\": %d, \"failure\": \"%s\", \"wall_s\": %.6f, \"busy\": %.4f, \"deliveries\": %ld, "
        "\"published\": %ld, \"answered\": %ld, \"refused\": %ld", in(), failed, first_failure, wall, busy, deliveries, published,
        answered, refused);
    if (sampled) printf(", \"mean_ms\": %.3f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f", sum / sampled,
        samples[sampled / 2], samples[sampled * 99 / 100], samples[sampled - 1]);
    printf("}\n");
    fflush(stdout);
}

static void load_script(const char *name, const char *token_file) {
    char *text = read_file(name), *line, *rest = text;
    script.count = 0;
    while ((line = strsep(&rest, "\n"))) {
        if (!strncmp(line, "path ", 5)) script.path = line + 5;
        else if (*line && script.count < MAX_STEPS) script.steps[script.count++] = (struct step){line[0] == 's', line + 5};
    }
    script.kind = strstr(script.path, "transport=polling") ? POLLING : WEBSOCKET;
    rest = read_file(token_file); token_count = 0;
    while ((line = strsep(&rest, "\n"))) if (*line) {
        tokens = grown(tokens, (token_count + 1) * sizeof *tokens);
        tokens[token_count++] = line;
    }
}

static void do_open(int wanted, int window, int deadline_s, int port, int source, char *file, char *token_file) {
    load_script(file, token_file);
    start();
    int opened = 0; int64_t end = now_us() + deadline_s * 1000000LL;
    while (now_us() < end && (opened < wanted || entering > 0)) {
        while (opened < wanted && entering < window) { open_next(port, source, &script); opened++; }
        turn(100);
    }
    report(now_us());
}

static int told(void) { // Is there a line on stdin? It is taken.
    struct pollfd in = {.fd = 0, .events = POLLIN}; char line[256];
    return poll(&in, 1, 0) == 1 && read(0, line, sizeof line) >= 0;
}

static void do_publish(int rounds, double per_s, int burst, int deadline_s, int port, char *file) {
    free(request); request = read_file(file); http_until = 0;
    for (int i = 0; i < publisher_count; i++) { // servers end a connection that was idle for seconds
        if (publishers[i]->fd >= 0) close(publishers[i]->fd);
        free(publishers[i]->part); free(publishers[i]);
    }
    for (publisher_count = 0; publisher_count < burst && publisher_count < MAX_PUBLISHERS; publisher_count++)
        publishers[publisher_count] = connected_to(port, -1, REQUESTS);
    for (int i = 0; i < publisher_count; i++) while (publishers[i]->state == CONNECTING) turn(100);
    start();
    int members = in(), until_told = !rounds;
    int64_t from = now_us() + 1000;
    began_us = from; last_delivery = from;
    for (int k = 0; until_told ? !told() : k < rounds; k++) {
        int64_t due = from + (int64_t)(k * 1e6 / per_s);
        wake_at(due);
        while (now_us() < due) turn(-1);
        for (int i = 0; i < publisher_count; i++) if (publishers[i]->state == IN) next_request(publishers[i], due);
        if (until_told) rounds = k + 1;
    }
    published = (long)rounds * burst;
    long expected = (long)members * rounds * burst;
    int64_t end = (until_told ? now_us() : from + (int64_t)(rounds / per_s * 1e6)) + deadline_s * 1000000LL;
    while ((deliveries < expected || answered < (long)rounds * burst) && now_us() < end) turn(100);
    report(last_delivery);
}

static void do_echo(double seconds, char *text, char *prefix) {
    char out[70000];
    echo_size = frame(out, text, strlen(text));
    echo_frame = out; echo_answer = prefix; echo_answer_size = strlen(prefix);
    start();
    echo_until = now_us() + (int64_t)(seconds * 1e6);
    long asked = 0;
    for (int i = 0; i < count; i++) if (clients[i]->state == IN) { clients[i]->began = now_us(); transmit(clients[i], out, echo_size); asked++; }
    while (now_us() < echo_until) turn(100);
    int64_t ended = now_us(), end = ended + 2000000;
    long got = answered;
    while (now_us() < end && answered < got + asked) turn(50); // those under way
    report(ended);
    echo_frame = NULL;
}

static void do_http(double seconds, int connections, int port, char *file) {
    free(request); request = read_file(file);
    start();
    http_until = now_us() + (int64_t)(seconds * 1e6);
    struct client *all[connections];
    for (int i = 0; i < connections; i++) all[i] = connected_to(port, -1, REQUESTS);
    while (now_us() < http_until) turn(50);
    int64_t ended = now_us(), end = ended + 300000;
    while (now_us() < end) turn(50);
    report(ended);
    for (int i = 0; i < connections; i++) { if (all[i]->fd >= 0) close(all[i]->fd); free(all[i]->part); free(all[i]); }
}

static void do_idle(double seconds) {
    start();
    int64_t end = now_us() + (int64_t)(seconds * 1e6);
    wake_at(end);
    while (now_us() < end) turn(1000);
    report(now_us());
}

static void do_close(int many) {
    start();
    for (int i = 0; i < many && count > 0; i++) {
        struct client *c = clients[--count];
        if (c->fd >= 0) close(c->fd);
        free(c->part); free(c->sid); free(c);
    }
    report(now_us());
}

int main(void) {
    struct rlimit files; getrlimit(RLIMIT_NOFILE, &files); files.rlim_cur = files.rlim_max; setrlimit(RLIMIT_NOFILE, &files);
    data = grown(NULL, READ + 1); epoll = epoll_create1(0); timer = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &e);
    // Between commands heartbeats are answered too: stdin is read when it has something.
    static char line[70000]; size_t have = 0;
    fcntl(0, F_SETFL, O_NONBLOCK);
    static struct client standard_input = {.fd = 0, .state = GONE};
    struct epoll_event s = {.events = EPOLLIN, .data.ptr = &standard_input};
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &s);
    for (;;) {
        ssize_t got = read(0, line + have, sizeof line - 1 - have);
        if (got == 0) return 0;
        if (got < 0) { turn(1000); continue; }
        have += got; line[have] = 0;
        char *eol = strchr(line, '\n');
        if (!eol) continue;
        *eol = 0;
        char *word[10] = {0}, *rest = line; int words = 0;
        while (words < 10 && (word[words] = strsep(&rest, "\t"))) words++;
        have = 0;
        // While a command runs, stdin must not wake the loop.
        epoll_ctl(epoll, EPOLL_CTL_DEL, 0, NULL);
        if (!strcmp(word[0], "open") && words == 8)
            do_open(atoi(word[1]), atoi(word[2]), atoi(word[3]), atoi(word[4]), atoi(word[5]), word[6], word[7]);
        else if (!strcmp(word[0], "publish") && words == 7)
            do_publish(atoi(word[1]), atof(word[2]), atoi(word[3]), atoi(word[4]), atoi(word[5]), word[6]);
        else if (!strcmp(word[0], "echo") && words == 4) do_echo(atof(word[1]), word[2], word[3]);
        else if (!strcmp(word[0], "http") && words == 5) do_http(atof(word[1]), atoi(word[2]), atoi(word[3]), word[4]);
        else if (!strcmp(word[0], "idle") && words == 2) do_idle(atof(word[1]));
        else if (!strcmp(word[0], "close") && words == 2) do_close(atoi(word[1]));
        else die("what is %s with %d words?", word[0], words);
        epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &s);
    }
}
