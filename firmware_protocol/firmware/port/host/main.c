/* The host twin: the firmware as a program, on TCP or a pseudo-terminal.
 *
 *   pimp-twin DIE tcp://127.0.0.1:PORT     port 0 takes a free one
 *   pimp-twin DIE pty
 *   options behind these: --token-file PATH     holds the SHA-256 of the shared token, 64 hexadecimal digits;
 *                                               else it is looked for in $PIMP_TOKEN
 *
 * Says `listening URL` on its standard output when it does, and then nothing more. It binds loopback and nothing else. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "port.h"
#include "server.h"

#define OBJECT_MEMORY ((size_t)512U << 20) /* half of it is offered; room is taken where it is used */
#define BOARD_SLACK ((uint64_t)1U << 20)
#define IDLE_US 1000000U
#define TCP "tcp://127.0.0.1:"

static pim_server server;
static pim_die die;

static int fail(const char *what, const char *why)
{
    (void)fprintf(stderr, "pimp-twin: %s: %s\n", what, why);
    return 2;
}

static const char *die_error(pim_die_status status)
{
    static const char *const texts[] = {"",
                                        "ends before it should",
                                        "is no die file",
                                        "is of another version",
                                        "is damaged: its CRC-32 differs",
                                        "cannot be read on this machine",
                                        "lacks a section, or one is of a wrong size",
                                        "has a field or a table entry out of its range"};
    return texts[status];
}

static int digit(char c)
{
    if ((c >= '0') && (c <= '9')) {
        return c - '0';
    }
    return ((c >= 'a') && (c <= 'f')) ? (c - 'a' + 10) : -1;
}

#define TOKEN_DIGITS (2U * (size_t)PIM_TOKEN_BYTES)

/* text: the digits, and at most an end of line behind them. */
static bool read_token(const char *text, uint8_t *token)
{
    if ((strlen(text) < TOKEN_DIGITS) || (text[TOKEN_DIGITS + strspn(&text[TOKEN_DIGITS], "\r\n")] != '\0')) {
        return false;
    }
    for (size_t i = 0U; i < PIM_TOKEN_BYTES; i++) {
        const int high = digit(text[2U * i]);
        const int low = digit(text[(2U * i) + 1U]);
        if ((high < 0) || (low < 0)) {
            return false;
        }
        token[i] = (uint8_t)((high * 16) + low);
    }
    return true;
}

/* The shared token of a file, of $PIMP_TOKEN where path is NULL, or none. It is what hosts are let in by, so that it is not
 * taken from the command line, which others on the machine can read. */
static int find_token(const char *path, uint8_t *token)
{
    static const char wanted[] = "want the SHA-256 of the token, 64 hexadecimal digits";
    char text[TOKEN_DIGITS + 3U] = {0};
    if (path == NULL) {
        const char *given = getenv("PIMP_TOKEN");
        return ((given == NULL) || (given[0] == '\0') || read_token(given, token)) ? 0 : fail("PIMP_TOKEN", wanted);
    }
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return fail(path, strerror(errno));
    }
    const size_t size = fread(text, 1U, sizeof text - 1U, file);
    const bool rest = (fgetc(file) != EOF);
    (void)fclose(file);
    return (!rest && (size >= TOKEN_DIGITS) && read_token(text, token)) ? 0 : fail(path, wanted);
}

static int listen_at(const char *url)
{
    if (strcmp(url, "pty") == 0) {
        const char *name = host_pty();
        if (name == NULL) {
            return fail(url, strerror(errno));
        }
        (void)printf("listening serial://%s\n", name);
    } else {
        char *end = NULL;
        const char *text = &url[strlen(TCP)];
        if (strncmp(url, TCP, strlen(TCP)) != 0) {
            return fail(url, "want " TCP "PORT or pty");
        }
        const unsigned long port = strtoul(text, &end, 10);
        if ((end == text) || (*end != '\0') || (port > 65535UL)) {
            return fail(url, "no port");
        }
        const uint16_t bound = host_listen((uint16_t)port);
        if (bound == 0U) {
            return fail(url, strerror(errno));
        }
        (void)printf("listening " TCP "%u\n", (unsigned)bound);
    }
    (void)fflush(stdout);
    return 0;
}

/* Memory for the board and the objects, and the server in it. */
static int start(const char *path, const uint8_t *token)
{
    size_t size = 0U;
    const uint8_t *image = host_map(path, &size);
    if (image == NULL) {
        return fail(path, strerror(errno));
    }
    const pim_die_status status = pim_die_read(&die, image, size);
    if (status != PIM_DIE_OK) {
        return fail(path, die_error(status));
    }
    const uint64_t cells = (uint64_t)die.macros * die.rows * die.columns;
    const uint64_t wanted = (2U * cells) + (2U * (uint64_t)die.registers) + BOARD_SLACK +
                            (64U * (uint64_t)(die.rows + die.columns)) + (2U * die.feature_memory);
    uint8_t *memory = host_memory((size_t)wanted + OBJECT_MEMORY);
    if (memory == NULL) {
        return fail("memory", strerror(errno));
    }
    return pim_server_begin(&server, &die, memory, (size_t)wanted, OBJECT_MEMORY, token)
               ? 0
               : fail(path, "its chip does not fit the memory");
}

int main(int count, char **arguments)
{
    uint8_t token[PIM_TOKEN_BYTES] = {0};
    if ((count != 3) && ((count != 5) || (strcmp(arguments[3], "--token-file") != 0))) {
        return fail("usage", "pimp-twin DIE tcp://127.0.0.1:PORT|pty [--token-file PATH], or the token in $PIMP_TOKEN");
    }
    int failed = find_token((count == 5) ? arguments[4] : NULL, token);
    if (failed == 0) {
        failed = start(arguments[1], token);
    }
    if (failed == 0) {
        failed = listen_at(arguments[2]);
    }
    while (failed == 0) {
        if (!pim_server_step(&server)) {
            port_wait(pim_server_idle(&server, IDLE_US));
        }
    }
    return failed;
}
