/* cdi: a disk image as the disk it was, for programs in other languages.
 *
 * Link with libcdi.a (cargo build --release makes target/release/libcdi.a) and -lm -lpthread -ldl.
 * A disk may be read by many threads at once. Opening starts threads: a program that forks opens after it has forked.
 * No function writes to the image. */

#ifndef CDI_H
#define CDI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A disk image that is open. */
typedef struct cdi_disk cdi_disk;

/* Opens the image at `path`, whatever its format. NULL if that cannot be: then `message` holds why, in at most
 * `message_size` bytes with the zero at the end. If it can, `message` holds what the user should know, a line each, or
 * nothing: that the bad blocks are those of a map next to a raw image, that segments are missing. `message` may be NULL. */
cdi_disk *cdi_open(const char *path, char *message, size_t message_size);

/* How an image is to be opened. All fields but `size` may be 0 or NULL. Later versions may add fields at the end:
 *
 *     cdi_options options = { sizeof options };
 */
typedef struct cdi_options {
    size_t size;              /* sizeof(cdi_options), as the caller was compiled */
    const char *format;       /* the format, where the magic does not say: a name that 'cdi formats' lists */
    const char *mapfile;      /* a raw image's map: ddrescue's mapfile or HDDSuperClone's log; "none": none; NULL: the one
                               * next to the image that is called after it, if there is one */
    const char *badblocks;    /* a raw image's list of bad blocks, as badblocks(8) writes it */
    uint64_t block_size;      /* the size of a block in that list, in bytes */
    uint32_t sector_size;     /* the disk's logical sector size in bytes, where the image does not say; 0: 512 */
    uint32_t read_suspect;    /* not 0: suspect sectors are read, and do not count as bad */
    const char *const *allow_parent; /* directories in which parents may lie besides the image's own; NULL at the end */
} cdi_options;

/* The same, as `options` says. NULL stands for none. */
cdi_disk *cdi_open_with(const char *path, const cdi_options *options, char *message, size_t message_size);

/* The size of the disk in bytes. 0 for NULL. */
uint64_t cdi_size(const cdi_disk *disk);

/* The logical sector size of the disk in bytes. 0 for NULL. */
uint32_t cdi_sector_size(const cdi_disk *disk);

/* Reads `length` bytes from `offset` on. 0 if all of them are in `buffer` and right; else an errno: EIO if a sector
 * among them is bad or the image is damaged there, EINVAL if they are not all on the disk. Then what is in `buffer` means
 * nothing. */
int cdi_read(const cdi_disk *disk, void *buffer, size_t length, uint64_t offset);

/* The first range at or behind `offset` whose reads fail: 1, and where it begins and ends in bytes; or 0 if there is
 * none. A range begins and ends on sectors, or at the end of the disk. */
int cdi_next_bad(const cdi_disk *disk, uint64_t offset, uint64_t *start, uint64_t *end);

/* Closes the disk. NULL is closed already. */
void cdi_close(cdi_disk *disk);

#ifdef __cplusplus
}
#endif

#endif
