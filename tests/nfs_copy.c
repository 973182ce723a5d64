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
        size_t length = getenv("NFS_COPY_ZEROS") ? 4096 : sizeof bytes;
        while ((got = nfs_read(nfs, from, length, bytes)) != 0) {
            if (got < 0 && length == 4096) {
                memset(bytes, 0, got = length);
                nfs_lseek(nfs, from, got, SEEK_CUR, NULL);
            }
            if (got < 0)
                break;
            fwrite(bytes, 1, got, to);
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
