/* cdi: reads disk images, and fails where the original disk had bad sectors. For programs in C and other languages.
 *
 * crates/cdi-ffi/install.sh builds and installs libcdi, this header and cdi.pc: compile with
 * `pkg-config --cflags --libs cdi`, or link with libcdi.a and -lm -lpthread -ldl.
 * A disk may be read by several threads at once. Opening an image starts threads: a program that forks must open it
 * after the fork. No function writes to the image. */

#ifndef CDI_H
#define CDI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An open disk image. */
typedef struct cdi_disk cdi_disk;

/* Opens the image at `path`, and detects its format. Returns NULL on failure; `message` then contains the reason, in at
 * most `message_size` bytes including the terminating zero. On success, `message` contains warnings, one per line, or
 * is empty: for example, that the bad blocks were read from a map next to a raw image, or that segments are missing.
 * `message` may be NULL. */
cdi_disk *cdi_open(const char *path, char *message, size_t message_size);

/* Options for opening an image. All fields except `size` may be 0 or NULL. Later versions may add fields at the end:
 *
 *     cdi_options options = { sizeof options };
 */
typedef struct cdi_options {
    size_t size;              /* sizeof(cdi_options) when the caller was compiled */
    const char *format;       /* the format, if it cannot be detected: a name listed by 'cdi formats' */
    const char *mapfile;      /* the map of a raw image: a ddrescue mapfile or a HDDSuperClone log; "none": no map;
                               * NULL: the map next to the image that is named after it, if there is one */
    const char *badblocks;    /* the list of bad blocks of a raw image, as written by badblocks(8) */
    uint64_t block_size;      /* the block size of that list, in bytes */
    uint32_t sector_size;     /* the disk's logical sector size in bytes, if the image does not record it; 0: 512 */
    uint32_t read_suspect;    /* nonzero: suspect sectors return the stored bytes, and do not count as bad */
    const char *const *allow_parent; /* directories where parents may be, besides the image's own; ends with NULL */
    const char *passphrase;   /* the passphrase of an encrypted image; copied, and wiped when the image is open */
} cdi_options;

/* Opens the image at `path` with the given options. NULL for `options` means the defaults. */
cdi_disk *cdi_open_with(const char *path, const cdi_options *options, char *message, size_t message_size);

/* Returns the size of the disk in bytes, or 0 for NULL. */
uint64_t cdi_size(const cdi_disk *disk);

/* Returns the logical sector size of the disk in bytes, or 0 for NULL. */
uint32_t cdi_sector_size(const cdi_disk *disk);

/* Reads `length` bytes starting at `offset`. Returns 0 if all of them were read correctly into `buffer`; otherwise an
 * errno: EIO if one of the sectors is bad or the image is damaged there, EINVAL if the range is not entirely on the
 * disk. The contents of `buffer` are undefined on failure. */
int cdi_read(const cdi_disk *disk, void *buffer, size_t length, uint64_t offset);

/* Finds the first range at or after `offset` whose reads fail. Returns 1 and its start and end in bytes, or 0 if there
 * is none. Ranges start and end at sector boundaries, or at the end of the disk. */
int cdi_next_bad(const cdi_disk *disk, uint64_t offset, uint64_t *start, uint64_t *end);

/* Closes the disk. Does nothing for NULL. */
void cdi_close(cdi_disk *disk);

#ifdef __cplusplus
}
#endif

#endif
