/* Every function of cdi.h, on an image with one bad sector; see tests/c_interface.rs. Prints "ok" if all is as it should be. */

#include <cdi.h>

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what)                                                  \
    do {                                                             \
        if (!(what)) {                                               \
            printf("line %d: %s\n", __LINE__, #what);                \
            return 1;                                                \
        }                                                            \
    } while (0)

/* ffi IMAGE RAW BAD: the image, the disk's bytes, the number of its one bad sector. */
int main(int argc, char **argv) {
    CHECK(argc == 4);
    char message[200] = "untouched";
    CHECK(cdi_open("no/such/image", message, sizeof message) == NULL);
    CHECK(strstr(message, "no/such/image") != NULL && strstr(message, "No such file") != NULL);
    CHECK(cdi_open("/", message, 5) == NULL && strlen(message) == 4);
    CHECK(cdi_open(NULL, NULL, 0) == NULL);

    cdi_disk *disk = cdi_open(argv[1], message, sizeof message);
    CHECK(disk != NULL);
    uint64_t size = cdi_size(disk);
    uint32_t sector = cdi_sector_size(disk);
    CHECK(sector == 512 && size % sector == 0);
    unsigned char *raw = malloc(size), *read = malloc(size);
    FILE *file = fopen(argv[2], "rb");
    CHECK(file && fread(raw, 1, size, file) == size && fgetc(file) == EOF);
    fclose(file);

    uint64_t bad = strtoull(argv[3], NULL, 10), failed = 0;
    for (uint64_t lba = 0; lba < size / sector; lba++) {
        int result = cdi_read(disk, read, sector, lba * sector);
        CHECK(result == (lba == bad ? EIO : 0));
        CHECK(result != 0 || memcmp(read, raw + lba * sector, sector) == 0);
        failed += result != 0;
    }
    CHECK(failed == 1);
    CHECK(cdi_read(disk, read, bad * sector, 0) == 0 && memcmp(read, raw, bad * sector) == 0);
    CHECK(cdi_read(disk, read, size, 0) == EIO);
    CHECK(cdi_read(disk, read, 1, size) == EINVAL && cdi_read(disk, read, 2, UINT64_MAX) == EINVAL);
    CHECK(cdi_read(disk, read, 0, size) == 0 && cdi_read(disk, NULL, 1, 0) == EINVAL);

    uint64_t start = 0, end = 0;
    CHECK(cdi_next_bad(disk, 0, &start, &end) == 1 && start == bad * sector && end == start + sector);
    CHECK(cdi_next_bad(disk, start + 1, &start, NULL) == 1 && start == bad * sector + 1);
    CHECK(cdi_next_bad(disk, end, &start, &end) == 0);

    /* Reads that go as far as they can. */
    cdi_failure failure = { sizeof failure, 1, 1, 1, 1 };
    size_t done = 9;
    uint64_t at = 0, got = 0, failures = 0;
    while (at < size) {
        int result = cdi_read_partial(disk, read, 100000, at, &done, &failure);
        CHECK(done <= 100000 && memcmp(read, raw + at, done) == 0);
        CHECK(result == 0 ? done == 100000 || at + done == size : result == EIO);
        got += done;
        at += done;
        if (result != 0) {
            CHECK(failure.start == at && failure.end == at + sector && at == bad * sector);
            CHECK(failure.error == EIO && failure.reason == CDI_BAD && failure.size == sizeof failure);
            at = failure.end;
            failures++;
        }
    }
    CHECK(at == size && got == size - sector && failures == 1);
    CHECK(cdi_read_partial(disk, read, sector, bad * sector, &done, NULL) == EIO && done == 0);
    CHECK(cdi_read_partial(disk, read, sector, bad * sector + 1, NULL, &failure) == EIO && failure.start == bad * sector + 1);
    CHECK(cdi_read_partial(disk, read, 5, size, &done, &failure) == 0 && done == 0);
    CHECK(cdi_read_partial(disk, read, 5, size + 1, &done, &failure) == EINVAL && done == 0);
    CHECK(cdi_read_partial(disk, read, 0, 0, &done, &failure) == 0 && cdi_read_partial(disk, NULL, 1, 0, &done, NULL) == EINVAL);
    CHECK(cdi_read_partial(NULL, read, 1, 0, &done, &failure) == EINVAL);
    /* A structure of an older version, and one of a newer one. */
    struct { cdi_failure failure; uint64_t more[2]; } newer = { { sizeof newer, 0, 0, 0, 0 }, { 7, 7 } };
    CHECK(cdi_read_partial(disk, read, 1, bad * sector, NULL, &newer.failure) == EIO);
    CHECK(newer.failure.end == (bad + 1) * sector && newer.more[0] == 0 && newer.more[1] == 0);
    newer.failure.size = offsetof(cdi_failure, end);
    newer.failure.end = 7;
    CHECK(cdi_read_partial(disk, read, 1, bad * sector + 2, NULL, &newer.failure) == EIO);
    CHECK(newer.failure.start == bad * sector + 2 && newer.failure.end == 7);
    newer.failure.size = 0;
    CHECK(cdi_read_partial(disk, read, 1, bad * sector, NULL, &newer.failure) == EINVAL);

    /* Ranges with their status, and the metadata. */
    cdi_range range = { sizeof range, 0, 0, NULL, 9, 9 };
    CHECK(cdi_next_range(disk, 0, &range) == 1 && range.start == bad * sector && range.end == (bad + 1) * sector);
    CHECK(strcmp(range.status, "bad-sector") == 0 && range.reserved == 0);
    CHECK(cdi_next_range(disk, range.end, &range) == 0 && cdi_next_range(disk, 0, NULL) == 1);
    CHECK(cdi_next_range(NULL, 0, &range) == 0);
    range.size = 0;
    CHECK(cdi_next_range(disk, 0, &range) == -1 && cdi_next_range(disk, size, &range) == -1);
    size_t length = cdi_info(disk, NULL, 0);
    char *info = malloc(length + 1), few[8];
    CHECK(info && cdi_info(disk, info, length + 1) == length && strlen(info) == length);
    CHECK(info[0] == '{' && info[length - 1] == '}' && strstr(info, "\"size_bytes\":") && strstr(info, "\"metadata\":"));
    CHECK(cdi_info(disk, few, sizeof few) == length && strlen(few) == 7 && cdi_info(NULL, few, sizeof few) == 0);
    free(info);
    CHECK(strchr(cdi_version(), '.') != NULL);

    CHECK(cdi_size(NULL) == 0 && cdi_sector_size(NULL) == 0 && cdi_next_bad(NULL, 0, NULL, NULL) == 0);
    CHECK(cdi_read(NULL, read, 1, 0) == EINVAL);
    cdi_close(disk);
    cdi_close(NULL);

    /* The raw image has a map next to it, and is not whole without it. */
    disk = cdi_open(argv[2], message, sizeof message);
    CHECK(disk && strstr(message, "disk.map") && cdi_next_bad(disk, 0, &start, NULL) == 1 && start == bad * sector);
    cdi_close(disk);
    cdi_options options = { sizeof options, NULL, "none", NULL, 0, 4096, 0, NULL, NULL };
    disk = cdi_open_with(argv[2], &options, message, sizeof message);
    CHECK(disk && message[0] == 0 && cdi_next_bad(disk, 0, NULL, NULL) == 0 && cdi_sector_size(disk) == 4096);
    cdi_close(disk);
    options.format = "qcow2";
    CHECK(cdi_open_with(argv[2], &options, message, sizeof message) == NULL);
    const char *parents[] = { "/", NULL };
    options.format = "raw";
    options.allow_parent = parents;
    disk = cdi_open_with(argv[2], &options, NULL, 0);
    CHECK(disk);
    cdi_close(disk);
    /* A caller that was compiled before some fields came, and one from the future. */
    options.size = offsetof(cdi_options, sector_size);
    disk = cdi_open_with(argv[2], &options, message, sizeof message);
    CHECK(disk && cdi_sector_size(disk) == 512 && cdi_next_bad(disk, 0, NULL, NULL) == 0);
    cdi_close(disk);
    options.size = sizeof options + 8;
    CHECK(cdi_open_with(argv[2], &options, message, sizeof message) == NULL && strstr(message, "version"));
    options.size = sizeof options;
    cdi_options secret = { sizeof secret, NULL, NULL, NULL, 0, 0, 0, NULL, NULL };
    CHECK(cdi_open_with("secret.dmg", &secret, message, sizeof message) == NULL && strstr(message, "passphrase"));
    secret.passphrase = "open sesame";
    disk = cdi_open_with("secret.dmg", &secret, message, sizeof message);
    CHECK(disk && cdi_size(disk) == 1 << 20);
    cdi_close(disk);
    options.sector_size = 1000;
    CHECK(cdi_open_with(argv[2], &options, message, sizeof message) == NULL && strstr(message, "1000"));
    options.sector_size = 0;
    options.badblocks = "list";
    CHECK(cdi_open_with(argv[2], &options, message, sizeof message) == NULL && strstr(message, "block"));
    free(raw);
    free(read);
    puts("ok");
    return 0;
}
