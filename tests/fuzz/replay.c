/* SPDX-License-Identifier: MIT
 * Runs a fuzz target over the files and folders it is given, where libFuzzer is not linked in. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Runs one input; returns 1, or -1 with a message. The block has exactly the input's size, even when that is
 * 0, so that AddressSanitizer sees a target read past its end. */
static int replay_file(const char *path, size_t size)
{
    printf("%s\n", path);
    fflush(stdout); /* the last name shown is the input that crashed */
    uint8_t *block = malloc(size > 0 ? size : 1);
    if (block == NULL)
        abort();
    uint8_t *data = size > 0 ? block : block + 1;
    FILE *file = fopen(path, "rb");
    int ran = -1;
    if (file != NULL && fread(data, 1, size, file) == size) {
        LLVMFuzzerTestOneInput(data, size);
        ran = 1;
    } else {
        perror(path);
    }
    if (file != NULL)
        fclose(file);
    free(block);
    return ran;
}

static int replay_path(const char *path);

static int replay_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int replay_folder(const char *path)
{
    struct dirent **entries;
    int n = scandir(path, &entries, replay_visible, alphasort);
    if (n < 0) {
        perror(path);
        return -1;
    }
    int total = 0;
    for (int i = 0; i < n; i++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, entries[i]->d_name);
        int ran = replay_path(name);
        total = ran < 0 || total < 0 ? -1 : total + ran;
        free(entries[i]);
    }
    free(entries);
    return total;
}

static int replay_path(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        perror(path);
        return -1;
    }
    return S_ISDIR(st.st_mode) ? replay_folder(path) : replay_file(path, (size_t)st.st_size);
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    const char *name = slash != NULL ? slash + 1 : argv[0];
    int total = 0;
    if (replay_file("/dev/null", 0) < 0)
        return 1;
    for (int i = 1; i < argc; i++) {
        int ran = replay_path(argv[i]);
        if (ran < 0)
            return 1;
        total += ran;
    }
    printf("%s: %d inputs\n", name, total);
    return total > 0 ? 0 : 1;
}
