/* Reads ranges of a file over NFS by libnfs, a client that is not ours.
 *
 * nfs_read URL OFFSET LENGTH...: for each range, on a line of its own, "ok" and the sum of its bytes, or "error".
 * Then the making of a file: "error" and the errno. */

#include <errno.h>
#include <fcntl.h>
#include <sys/time.h>

#include <nfsc/libnfs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    struct nfs_context *nfs = nfs_init_context();
    struct nfs_url *url = nfs ? nfs_parse_url_full(nfs, argv[1]) : NULL;
    struct nfsfh *file;
    if (!url || nfs_mount(nfs, url->server, url->path) || nfs_open(nfs, url->file, O_RDONLY, &file)) {
        fprintf(stderr, "%s\n", nfs ? nfs_get_error(nfs) : "no context");
        return 1;
    }
    for (int i = 2; i + 1 < argc; i += 2) {
        uint64_t offset = strtoull(argv[i], NULL, 10), length = strtoull(argv[i + 1], NULL, 10), sum = 0;
        unsigned char *bytes = malloc(length);
        int got = nfs_pread(nfs, file, offset, length, bytes);
        if (got < 0) {
            /* Which error it was, libnfs does not tell. */
            printf("error\n");
        } else {
            for (int b = 0; b < got; b++)
                sum = sum * 31 + bytes[b];
            printf("ok %d %llu\n", got, (unsigned long long)sum);
        }
        free(bytes);
    }
    struct nfsfh *written;
    char path[256];
    snprintf(path, sizeof path, "/new-%s", url->file + 1);
    printf("error %d\n", -nfs_creat(nfs, path, 0600, &written));
    nfs_close(nfs, file);
    nfs_umount(nfs);
    nfs_destroy_url(url);
    nfs_destroy_context(nfs);
    return 0;
}
