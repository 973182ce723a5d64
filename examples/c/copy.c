/* Copies everything that can be read on a disk image to a raw file, and lists what cannot: copy IMAGE OUT
 *
 *     cc -o copy copy.c $(pkg-config --cflags --libs cdi)
 *
 * The parts that cannot be read are holes in OUT, and one line each on stdout: offset, length (in bytes), reason. Exits with 0
 * if everything was read, 2 if something was not, 1 on errors. */

#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include <cdi.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE ((size_t)1 << 20)

static const char *reason(uint32_t number) {
    switch (number) {
    case CDI_BAD: return "bad sector";
    case CDI_UNTRIED: return "not tried";
    case CDI_DAMAGED: return "the image is damaged";
    default: return "cannot be read";
    }
}

static int write_all(int file, const char *bytes, size_t length, uint64_t offset) {
    while (length > 0) {
        ssize_t written = pwrite(file, bytes, length, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        bytes += written;
        length -= (size_t)written;
        offset += (uint64_t)written;
    }
    return 0;
}

static int copy(const cdi_disk *disk, int out, char *buffer) {
    cdi_failure failure = { sizeof failure, 0, 0, 0, 0 };
    uint64_t size = cdi_size(disk), offset = 0;
    int lost = 0;
    if (ftruncate(out, (off_t)size) != 0)
        return -1;
    while (offset < size) {
        size_t done = 0;
        int error = cdi_read_partial(disk, buffer, PIECE, offset, &done, &failure);
        if (write_all(out, buffer, done, offset) != 0)
            return -1;
        offset += done;
        if (error == EIO) {
            printf("%" PRIu64 " %" PRIu64 " %s\n", failure.start, failure.end - failure.start, reason(failure.reason));
            /* The library promises that it goes on. */
            if (failure.end <= offset) {
                errno = EIO;
                return -1;
            }
            offset = failure.end;
            lost = 1;
        } else if (error != 0) {
            errno = error;
            return -1;
        }
    }
    return lost;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: copy IMAGE OUT\n");
        return 1;
    }
    char message[1024];
    cdi_disk *disk = cdi_open(argv[1], message, sizeof message);
    if (disk == NULL) {
        fprintf(stderr, "copy: %s\n", message);
        return 1;
    }
    if (message[0] != 0)
        fprintf(stderr, "copy: warning: %s\n", message);
    int out = open(argv[2], O_WRONLY | O_CREAT | O_EXCL, 0666);
    char *buffer = malloc(PIECE);
    int result = out < 0 || buffer == NULL ? -1 : copy(disk, out, buffer);
    if (out >= 0 && close(out) != 0)
        result = -1;
    if (result < 0)
        fprintf(stderr, "copy: %s: %s\n", argv[2], strerror(errno));
    /* Without the list, nobody knows what was lost. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "copy: cannot write the list of what was lost\n");
        result = -1;
    }
    free(buffer);
    cdi_close(disk);
    return result < 0 ? 1 : result > 0 ? 2 : 0;
}
