/*
 * An HTTP/1.1 POST load generator: open loop (a rate, whatever the server does) or closed loop
 * (so many connections, each asking again when it has its answer). One thread, epoll.
 *
 * - Every connection is opened before the clock starts.
 * - Latency counts from the time a request was scheduled, so a client that had no free
 *   connection is part of the wait; what was scheduled within the first `skip` seconds is left out.
 * - The result, one line of JSON, says how much of a core the generator itself used.
 *
 * usage: open_loop PORT PATH BODY-FILE SECONDS SKIP CONNECTIONS RATE [HEADER-LINE]
 * RATE is in requests a second; 0 is the closed loop.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { CLOSED, CONNECTING, SENDING, WAITING, IDLE };

struct connection {
    int fd;
    enum state state;
    double due;       /* when its request was scheduled; below 0 before the first one */
    size_t sent;      /* bytes of the request that are written */
    char answer[65536];
    size_t length;    /* bytes of the answer that are here */
    long whole;       /* length of the whole answer; -1 until its head is here */
    int status, last; /* the answer's status, and whether the server closes after it */
};

struct record { double due, end; int status; };

static struct connection *all;
static int count, epoll_fd, opened_again, failures;
static char *request;
static size_t request_length;
static struct sockaddr_in address;
static int *idle, idle_count;
static struct record *records;
static long record_count, record_room;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + 1e-6 * (u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void watch(struct connection *c, int operation, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &event);
}

static void record(struct connection *c, int status, double end) {
    if (c->due >= 0 && record_count < record_room)
        records[record_count++] = (struct record){c->due, end, status};
}

/* Connect (again). The request that is due is sent once the connection is there. */
static void open_connection(struct connection *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->length = 0;
    c->whole = -1;
    if (connect(c->fd, (void *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        perror("connect");
        exit(1);
    }
    c->state = CONNECTING;
    watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void drop(struct connection *c) {
    close(c->fd);
    c->state = CLOSED;
}

/* Write what is left of the request. */
static void push(struct connection *c) {
    while (c->sent < request_length) {
        ssize_t n = send(c->fd, request + c->sent, request_length - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0)
            break; /* refused in the middle of a body: the answer may still be read */
        c->sent += n;
    }
    c->state = WAITING;
}

static void start(struct connection *c, double due) {
    c->due = due;
    c->sent = 0;
    c->length = 0;
    c->whole = -1;
    if (c->state == CLOSED) {
        opened_again++;
        open_connection(c);
    } else {
        c->state = SENDING;
        push(c);
    }
}

/* Read; 1 when the answer is whole, -1 when the connection is gone. */
static int receive(struct connection *c) {
    ssize_t n = recv(c->fd, c->answer + c->length, sizeof c->answer - 1 - c->length, 0);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0)
        return -1;
    c->length += n;
    c->answer[c->length] = 0;
    if (c->whole < 0) {
        char *end = strstr(c->answer, "\r\n\r\n");
        if (!end)
            return 0;
        char *field = strcasestr(c->answer, "\ncontent-length:");
        c->status = atoi(c->answer + 9);
        c->last = strcasestr(c->answer, "\nconnection: close") != 0;
        c->whole = end + 4 - c->answer + (field && field < end ? atol(field + 16) : 0);
    }
    return (long)c->length >= c->whole;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double *values, long n, double share) {
    if (!n)
        return 0;
    long at = share * n;
    return 1000 * values[at < n ? at : n - 1];
}

int main(int argc, char **argv) {
    if (argc < 8) {
        fprintf(stderr, "usage: open_loop PORT PATH BODY SECONDS SKIP CONNECTIONS RATE [HEADER]\n");
        return 2;
    }
    double seconds = atof(argv[4]), skip = atof(argv[5]), rate = atof(argv[7]);
    count = atoi(argv[6]);
    FILE *file = fopen(argv[3], "rb");
    if (!file) {
        perror(argv[3]);
        return 1;
    }
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    request = malloc(size + 4096);
    int head = sprintf(request,
                       "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nContent-Length: %ld\r\n"
                       "Content-Type: application/json\r\n%s%s\r\n",
                       argv[2], argv[1], size, argc > 8 ? argv[8] : "", argc > 8 ? "\r\n" : "");
    if (fread(request + head, 1, size, file) != (size_t)size)
        return 1;
    request_length = head + size;
    all = calloc(count, sizeof *all);
    idle = malloc(count * sizeof *idle);
    record_room = (long)((rate > 0 ? rate : 100000) * seconds * 1.2) + 10000;
    records = malloc(record_room * sizeof *records);
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    epoll_fd = epoll_create1(0);

    int connecting = count, running = 0;
    long scheduled = 0, handed = 0; /* requests that were due, and those a connection has */
    double began = now(), end = began + seconds, used = cpu();
    for (int i = 0; i < count; i++) {
        all[i].due = -1;
        open_connection(&all[i]);
    }
    for (;;) {
        double t = now();
        if (!running && (connecting == 0 || t - began > 10)) {
            running = 1;
            began = t;
            end = t + seconds;
            used = cpu();
            if (rate == 0)
                for (int i = 0; i < count; i++)
                    start(&all[i], t);
        }
        if (running && rate > 0) {
            long due = (long)(((t < end ? t : end) - began) * rate);
            if (due > scheduled)
                scheduled = due;
            for (int i = 0; handed < scheduled && (idle_count || i < count);) {
                struct connection *c = 0;
                if (idle_count)
                    c = &all[idle[--idle_count]];
                else if (all[i++].state == CLOSED)
                    c = &all[i - 1];
                if (c && (c->state == IDLE || c->state == CLOSED))
                    start(c, began + handed++ / rate);
            }
        }
        if (running && t >= end) {
            int busy = 0;
            for (int i = 0; i < count; i++)
                busy += all[i].due >= 0 && all[i].state != IDLE && all[i].state != CLOSED;
            if (rate == 0 || (!busy && handed == scheduled) || t > end + 3)
                break;
        }
        struct epoll_event events[512];
        int wait = !running || t >= end ? 5 : 0;
        int n = epoll_wait(epoll_fd, events, 512, wait);
        t = now();
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->state == CLOSED)
                continue;
            if (c->state == CONNECTING) {
                int error = 0;
                socklen_t length = sizeof error;
                getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
                if (!error && !(events[i].events & EPOLLOUT))
                    continue;
                if (c->due < 0)
                    connecting--;
                if (error) {
                    failures++;
                    record(c, 0, t);
                    drop(c);
                    continue;
                }
                watch(c, EPOLL_CTL_MOD, EPOLLIN);
                if (c->due < 0) {
                    c->state = IDLE;
                    idle[idle_count++] = c - all;
                    continue;
                }
                c->state = SENDING;
                push(c);
            } else if (c->state == SENDING && events[i].events & EPOLLOUT) {
                watch(c, EPOLL_CTL_MOD, EPOLLIN);
                push(c);
            }
            if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                continue;
            int got = receive(c);
            if (got == 0)
                continue;
            if (got < 0) {
                if (c->state == SENDING || c->state == WAITING) {
                    failures++;
                    record(c, 0, t);
                }
                drop(c);
            } else {
                record(c, c->status, t);
                c->state = IDLE;
                if (c->last || c->sent < request_length)
                    drop(c);
            }
            if (rate == 0 && t < end)
                start(c, t);
            else if (c->state == IDLE)
                idle[idle_count++] = c - all;
        }
    }
    double wall = now() - began, share = (cpu() - used) / wall;
    double *answers = malloc((record_count + 1) * sizeof *answers);
    double *refusals = malloc((record_count + 1) * sizeof *refusals);
    long answered = 0, in_time = 0, refused = 0, others = 0;
    for (long i = 0; i < record_count; i++) {
        double latency = records[i].end - records[i].due;
        if (records[i].due < began + skip)
            continue;
        if (records[i].status == 200) {
            answers[answered++] = latency;
            in_time += latency <= 1 && records[i].end <= end;
        } else if (records[i].status == 429 || records[i].status == 503)
            refusals[refused++] = latency;
        else
            others++;
    }
    qsort(answers, answered, sizeof *answers, by_value);
    qsort(refusals, refused, sizeof *refusals, by_value);
    double window = seconds - skip;
    printf("{\"answers_per_second\": %.1f, \"answer_p50_ms\": %.2f, \"answer_p99_ms\": %.2f, "
           "\"refused_per_second\": %.1f, \"refused_p50_ms\": %.2f, \"refused_p99_ms\": %.2f, "
           "\"failed_per_second\": %.1f, \"unanswered\": %ld, \"opened_again\": %d, "
           "\"generator_cpu\": %.3f}\n",
           in_time / window, percentile(answers, answered, .5), percentile(answers, answered, .99),
           refused / window, percentile(refusals, refused, .5), percentile(refusals, refused, .99),
           others / window, rate > 0 ? scheduled - record_count : 0, opened_again, share);
    return 0;
}
