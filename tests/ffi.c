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
