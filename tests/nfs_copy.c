/* nfs_copy URL DIR: mounts an export by libnfs, once, and copies every file of its root into a folder. With NFS_COPY_ZEROS
   set, what cannot be read is zeros there. */

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/time.h>

#include <nfsc/libnfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int copy(struct nfs_context *nfs, const char *name, const char *dir) {
    static unsigned char bytes[1 << 17];
    char path[4096];
    struct nfsfh *from;
    int got = -1;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *to = fopen(path, "wb");
    if (to && nfs_open(nfs, name, O_RDONLY, &from) == 0) {
        int zeros = getenv("NFS_COPY_ZEROS") != NULL;
        uint64_t at = 0, small_until = 0;
        for (;;) {
            size_t length = at < small_until ? 4096 : sizeof bytes;
            got = nfs_pread(nfs, from, at, length, bytes);
            if (got < 0 && zeros && length > 4096) {
                small_until = at + length;
                continue;
            }
            if (got < 0 && zeros)
                memset(bytes, 0, got = length);
            if (got <= 0)
                break;
            fwrite(bytes, 1, got, to);
            at += got;
        }
        nfs_close(nfs, from);
    }
    return to && fclose(to) == 0 && got == 0 ? 0 : -1;
}

int main(int argc, char **argv) {
    struct nfs_context *nfs = nfs_init_context();
    struct nfs_url *url = argc == 3 && nfs ? nfs_parse_url_dir(nfs, argv[1]) : NULL;
    struct nfsdir *dir;
    if (!url || nfs_mount(nfs, url->server, url->path) || nfs_opendir(nfs, "/", &dir)) {
        fprintf(stderr, "%s\n", nfs ? nfs_get_error(nfs) : "no context");
        return 1;
    }
    for (struct nfsdirent *entry; (entry = nfs_readdir(nfs, dir));) {
        if (S_ISREG(entry->mode) && copy(nfs, entry->name, argv[2])) {
            fprintf(stderr, "%s: %s\n", entry->name, nfs_get_error(nfs));
            return 1;
        }
    }
    nfs_closedir(nfs, dir);
    nfs_umount(nfs);
    return 0;
}
