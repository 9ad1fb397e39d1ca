/* The twin's die file and memory: mapped, so that only what is used takes room. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"

const uint8_t *host_map(const char *path, size_t *size)
{
    struct stat about;
    const int file = open(path, O_RDONLY);
    if (file < 0) {
        return NULL;
    }
    if ((fstat(file, &about) != 0) || (about.st_size <= 0)) {
        errno = (errno == 0) ? EINVAL : errno;
        (void)close(file);
        return NULL;
    }
    *size = (size_t)about.st_size;
    /* Populated at once: every table is looked at when the die is read. */
    void *content = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, file, 0);
    (void)close(file);
    return (content == MAP_FAILED) ? NULL : (const uint8_t *)content;
}

uint8_t *host_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return (memory == MAP_FAILED) ? NULL : (uint8_t *)memory;
}
