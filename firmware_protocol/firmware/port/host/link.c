/* The twin's lines: TCP clients on loopback, or a pseudo-terminal. Each line's bytes are kept until a frame of it is whole,
 * and the server gets one line's frames at a time: who sends nothing, or half a frame, is in nobody's way, and the session
 * rules answer the others. */
#define _DEFAULT_SOURCE
#define _XOPEN_SOURCE 700
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "host.h"
#include "pimp_protocol.h"
#include "port.h"

#define STUCK_MS 5000 /* an owner that takes nothing for so long is let go of; any other at once */
#define LINES 8       /* at a time; one more takes the place of the one that was silent for longest */
#define NO_LINE LINES
#define IN_BYTES 16384U
#define LONGEST (PIMP_MAX_ENCODED + 1U) /* more without a zero is no frame, however long it goes on */

typedef struct {
    int fd; /* -1: none */
    uint32_t number;
    uint64_t heard;
    size_t start; /* of what was not given to the server */
    size_t ready; /* behind the last zero; start where no frame is whole */
    size_t end;
    uint8_t bytes[IN_BYTES];
} host_line;

static int listening = -1;
static host_line lines[LINES];
static size_t current = NO_LINE; /* that the server hears */
static uint32_t numbers = 0U; /* of lines so far */
static uint32_t owner = 0U;   /* number of the line of the host that has the board */
static bool is_pty = false;

static void begin(host_line *line, int fd)
{
    line->fd = fd;
    line->number = numbers;
    numbers++;
    line->heard = port_now();
    line->start = 0U;
    line->ready = 0U;
    line->end = 0U;
}

static void no_lines(void)
{
    for (size_t i = 0U; i < LINES; i++) {
        begin(&lines[i], -1);
    }
}

uint16_t host_listen(uint16_t port)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    const int on = 1;
    no_lines();
    (void)memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listening = socket(AF_INET, SOCK_STREAM, 0);
    if ((listening < 0) || (setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) ||
        (bind(listening, (struct sockaddr *)&address, sizeof address) != 0) || (listen(listening, LINES) != 0) ||
        (fcntl(listening, F_SETFL, O_NONBLOCK) != 0) ||
        (getsockname(listening, (struct sockaddr *)&address, &size) != 0)) {
        return 0U;
    }
    return ntohs(address.sin_port);
}

const char *host_pty(void)
{
    struct termios raw;
    no_lines();
    const int line = posix_openpt(O_RDWR | O_NOCTTY);
    if ((line < 0) || (grantpt(line) != 0) || (unlockpt(line) != 0)) {
        return NULL;
    }
    const char *name = ptsname(line);
    if (name == NULL) {
        return NULL;
    }
    /* The other end is held open here too: without that, reading fails whenever no host has it open. */
    const int other = open(name, O_RDWR | O_NOCTTY);
    if ((other < 0) || (tcgetattr(other, &raw) != 0)) {
        return NULL;
    }
    cfmakeraw(&raw);
    if ((tcsetattr(other, TCSANOW, &raw) != 0) || (fcntl(line, F_SETFL, O_NONBLOCK) != 0)) {
        return NULL;
    }
    is_pty = true;
    begin(&lines[0], line);
    return name;
}

/* A pseudo-terminal stays: somebody may open it again. */
static void hang_up(size_t i)
{
    if (is_pty || (lines[i].fd < 0)) {
        return;
    }
    (void)close(lines[i].fd);
    begin(&lines[i], -1);
    if (current == i) {
        current = NO_LINE;
    }
}

/* A place for a new line: a free one, or that of the line that was silent for longest. */
static size_t place(void)
{
    size_t found = 0U;
    for (size_t i = 0U; i < LINES; i++) {
        if (lines[i].fd < 0) {
            return i;
        }
        const bool spared = (lines[found].number == owner); /* whoever else comes, the owner's line stays */
        if (spared || ((lines[i].number != owner) && (lines[i].heard < lines[found].heard))) {
            found = i;
        }
    }
    hang_up(found);
    return found;
}

static void take_clients(void)
{
    const int on = 1;
    int client = is_pty ? -1 : accept(listening, NULL, NULL);
    while (client >= 0) {
        if ((fcntl(client, F_SETFL, O_NONBLOCK) == 0) &&
            (setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0) &&
            (setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0)) {
            begin(&lines[place()], client);
        } else {
            (void)close(client);
        }
        client = accept(listening, NULL, NULL);
    }
}

/* Takes what came over a line into its room. */
static void hear(size_t i)
{
    host_line *line = &lines[i];
    if (line->start > 0U) {
        (void)memmove(line->bytes, &line->bytes[line->start], line->end - line->start);
        line->ready -= line->start;
        line->end -= line->start;
        line->start = 0U;
    }
    const ssize_t got = read(line->fd, &line->bytes[line->end], IN_BYTES - line->end);
    if (got <= 0) {
        if ((got == 0) || ((errno != EAGAIN) && (errno != EINTR))) {
            hang_up(i);
        }
        return;
    }
    line->heard = port_now();
    const size_t before = line->end;
    line->end += (size_t)got;
    for (size_t k = line->end; k > before; k--) {
        if (line->bytes[k - 1U] == 0U) {
            line->ready = k;
            break;
        }
    }
    if ((line->ready == 0U) && (line->end > LONGEST)) {
        line->end = LONGEST; /* enough for the server to tell what it is, when its zero comes */
    }
}

static bool has_frame(size_t i)
{
    return (lines[i].fd >= 0) && (lines[i].ready > lines[i].start);
}

/* The next line with a whole frame, after the present one; NO_LINE where none has. */
static size_t next_line(void)
{
    for (size_t k = 1U; k <= LINES; k++) {
        const size_t i = ((current % LINES) + k) % LINES;
        if (has_frame(i)) {
            return i;
        }
    }
    return NO_LINE;
}

size_t port_receive(uint8_t *data, size_t capacity, uint32_t *number)
{
    if ((current == NO_LINE) || !has_frame(current)) { /* it is between frames */
        take_clients();
        for (size_t i = 0U; i < LINES; i++) {
            if ((lines[i].fd >= 0) && !has_frame(i)) {
                hear(i);
            }
        }
        current = next_line();
    }
    if (current == NO_LINE) {
        return 0U;
    }
    host_line *line = &lines[current];
    const size_t whole = line->ready - line->start;
    const size_t count = (whole < capacity) ? whole : capacity;
    (void)memcpy(data, &line->bytes[line->start], count);
    line->start += count;
    *number = line->number;
    return count;
}

/* Sends all, or hangs up. */
static bool put(size_t to, int patience, const uint8_t *data, size_t count)
{
    size_t done = 0U;
    while (done < count) {
        const int fd = lines[to].fd;
        const ssize_t sent = is_pty ? write(fd, &data[done], count - done)
                                    : send(fd, &data[done], count - done, MSG_NOSIGNAL);
        if (sent > 0) {
            done += (size_t)sent;
            continue;
        }
        if ((errno == EPIPE) || (errno == ECONNRESET)) { /* gone, but what it said last, as CLOSE, is still to be read */
            return false;
        }
        struct pollfd wait = {fd, POLLOUT, 0};
        if (((errno != EAGAIN) && (errno != EINTR)) || (poll(&wait, 1U, patience) <= 0)) {
            hang_up(to);
            return false;
        }
    }
    return true;
}

bool port_send(uint32_t line, bool patient, const uint8_t *data, size_t count)
{
    if (patient) {
        owner = line;
    }
    for (size_t i = 0U; i < LINES; i++) {
        if ((lines[i].fd >= 0) && (lines[i].number == line)) {
            return put(i, patient ? STUCK_MS : 0, data, count);
        }
    }
    return false;
}

void port_wait(uint32_t microseconds)
{
    struct pollfd wait[LINES + 1];
    nfds_t count = 0U;
    if (!is_pty) {
        wait[count] = (struct pollfd){listening, POLLIN, 0};
        count++;
    }
    for (size_t i = 0U; i < LINES; i++) {
        if (lines[i].fd >= 0) {
            wait[count] = (struct pollfd){lines[i].fd, POLLIN, 0};
            count++;
        }
    }
    (void)poll(wait, count, (int)((microseconds + 999U) / 1000U));
}

uint64_t port_now(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return ((uint64_t)now.tv_sec * 1000000U) + ((uint64_t)now.tv_nsec / 1000U);
}

void port_safe(void)
{
    /* tables have no array, no DACs and no supplies */
}

uint64_t port_random(void)
{
    uint64_t value = 0U;
    const int source = open("/dev/urandom", O_RDONLY);
    if ((source < 0) || (read(source, &value, sizeof value) != (ssize_t)sizeof value)) {
        value = port_now() ^ ((uint64_t)getpid() << 32);
    }
    if (source >= 0) {
        (void)close(source);
    }
    return value;
}
