/* The twin's line: one TCP client at a time on loopback, or a pseudo-terminal. */
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
#include "port.h"

#define STUCK_MS 5000 /* a client that takes nothing for so long is let go of */

static int listening = -1;
static int line = -1;
static bool is_pty = false;

uint16_t host_listen(uint16_t port)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    const int on = 1;
    (void)memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listening = socket(AF_INET, SOCK_STREAM, 0);
    if ((listening < 0) || (setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) ||
        (bind(listening, (struct sockaddr *)&address, sizeof address) != 0) || (listen(listening, 4) != 0) ||
        (fcntl(listening, F_SETFL, O_NONBLOCK) != 0) ||
        (getsockname(listening, (struct sockaddr *)&address, &size) != 0)) {
        return 0U;
    }
    return ntohs(address.sin_port);
}

const char *host_pty(void)
{
    struct termios raw;
    line = posix_openpt(O_RDWR | O_NOCTTY);
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
    return name;
}

static void hang_up(void)
{
    if (!is_pty && (line >= 0)) {
        (void)close(line);
        line = -1;
    }
}

/* A waiting client becomes the line if there is none. */
static void take_client(void)
{
    const int on = 1;
    if (is_pty || (line >= 0)) {
        return;
    }
    const int client = accept(listening, NULL, NULL);
    if (client < 0) {
        return;
    }
    if ((fcntl(client, F_SETFL, O_NONBLOCK) != 0) ||
        (setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)) {
        (void)close(client);
        return;
    }
    line = client;
}

size_t port_receive(uint8_t *data, size_t capacity)
{
    take_client();
    if (line < 0) {
        return 0U;
    }
    const ssize_t got = read(line, data, capacity);
    if (got > 0) {
        return (size_t)got;
    }
    if ((got == 0) || ((errno != EAGAIN) && (errno != EINTR))) {
        hang_up();
    }
    return 0U;
}

bool port_send(const uint8_t *data, size_t count)
{
    size_t done = 0U;
    while (done < count) {
        const ssize_t put = (line < 0) ? -1 : (is_pty ? write(line, &data[done], count - done)
                                                      : send(line, &data[done], count - done, MSG_NOSIGNAL));
        if (put > 0) {
            done += (size_t)put;
            continue;
        }
        struct pollfd wait = {line, POLLOUT, 0};
        if ((line < 0) || ((errno != EAGAIN) && (errno != EINTR)) || (poll(&wait, 1U, STUCK_MS) <= 0)) {
            hang_up();
            return false;
        }
    }
    return true;
}

void port_wait(uint32_t microseconds)
{
    struct pollfd wait = {(line >= 0) ? line : listening, POLLIN, 0};
    (void)poll(&wait, 1U, (int)((microseconds + 999U) / 1000U));
}

uint64_t port_now(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return ((uint64_t)now.tv_sec * 1000000U) + ((uint64_t)now.tv_nsec / 1000U);
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
