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
 * Characters that would control a terminal are replaced. `message` may be NULL. */
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

/* Why a read ended: values of cdi_failure.reason. Later versions may add others. */
enum {
    CDI_BAD = 1,     /* the disk could not read the sector when the image was made */
    CDI_UNTRIED = 2, /* nobody has tried to read the sector yet */
    CDI_DAMAGED = 3, /* the image is damaged there */
    CDI_IO = 4       /* the image's file cannot be read there */
};

/* A range that cannot be read. Set `size` before it is passed; fields that a version does not know are set to 0. */
typedef struct cdi_failure {
    size_t size;     /* sizeof(cdi_failure) when the caller was compiled */
    uint64_t start;  /* the first byte that cannot be read */
    uint64_t end;    /* where the next read may succeed, in bytes: more than `start` */
    int32_t error;   /* the errno: EIO */
    uint32_t reason; /* CDI_BAD, … */
} cdi_failure;

/* Reads up to `length` bytes starting at `offset`, and stops before the first byte that cannot be read, and at the end of the
 * disk. *done is the number of bytes read into `buffer`; the contents of the rest are undefined. Returns 0 if nothing but the
 * end of the disk ended it; EIO if a range cannot be read, which *failure then describes; EINVAL if `offset` is after the end
 * of the disk, or failure->size is not set. `done` and `failure` may be NULL. To read everything that can be read, continue at
 * failure.end:
 *
 *     cdi_failure failure = { sizeof failure, 0, 0, 0, 0 };
 *     while (offset < cdi_size(disk)) {
 *         int error = cdi_read_partial(disk, buffer, sizeof buffer, offset, &done, &failure);
 *         (use `done` bytes at `offset`)
 *         offset = error ? failure.end : offset + done;
 *     }
 */
int cdi_read_partial(const cdi_disk *disk, void *buffer, size_t length, uint64_t offset, size_t *done,
                     cdi_failure *failure);

/* Finds the first range at or after `offset` whose reads fail. Returns 1 and its start and end in bytes, or 0 if there
 * is none. Ranges start and end at sector boundaries, or at the end of the disk. */
int cdi_next_bad(const cdi_disk *disk, uint64_t offset, uint64_t *start, uint64_t *end);

/* A range that is not finished, as the image records it. Set `size` before it is passed. */
typedef struct cdi_range {
    size_t size;        /* sizeof(cdi_range) when the caller was compiled */
    uint64_t start;     /* the first byte */
    uint64_t end;       /* the byte after the last one */
    const char *status; /* "non-tried", "non-trimmed", "non-scraped" or "bad-sector", as ddrescue has them; "suspect". Static */
    uint32_t tries;     /* how often it was tried, if the image records it; else 0 */
    uint32_t reserved;  /* 0 */
} cdi_range;

/* Finds the first range that is not finished and ends after `offset`, with its status. Returns 1, 0 if there is none, or -1
 * if range->size is not set. To see all of them, begin at 0 and continue at range.end. cdi_next_bad has the same ranges by
 * what reads of them do: without suspect ones if these are read, and extended to whole sectors. */
int cdi_next_range(const cdi_disk *disk, uint64_t offset, cdi_range *range);

/* Writes the metadata of the image as JSON, as 'cdi info --json' prints it without partitions and digest, in at most `size`
 * bytes including the terminating zero. Returns the length of the whole text without the zero: if it is not less than `size`,
 * the text was truncated. `text` may be NULL if `size` is 0. Hashes of the disk that a .cdimg has are in it ("metadata"). */
size_t cdi_info(const cdi_disk *disk, char *text, size_t size);

/* Returns the version of the library, such as "0.1.0". */
const char *cdi_version(void);

/* Closes the disk. Does nothing for NULL. */
void cdi_close(cdi_disk *disk);

#ifdef __cplusplus
}
#endif

#endif
