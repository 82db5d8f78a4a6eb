/* Files in a tmpfs: created, written, closed, opened, read and unlinked. */

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "measure.h"

#define FILES 100
#define LENGTH 1000

static char directory[] = "/dev/shm/gasang-bench-XXXXXX";

static void create(const char *path, int number)
{
    char content[LENGTH];
    memset(content, number, sizeof content);
    int file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (file < 0 || write(file, content, LENGTH) != LENGTH || close(file) != 0)
        fail("create");
}

static int holds(const char *path, int number)
{
    char content[LENGTH + 1];
    int file = open(path, O_RDONLY);
    if (file < 0)
        fail("open");
    ssize_t length = read(file, content, sizeof content);
    close(file);
    return length == LENGTH && content[0] == (char)number && content[LENGTH - 1] == (char)number;
}

/* How many files held what was written. */
static uint64_t work(void)
{
    char path[64];
    uint64_t right = 0;
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%s/%d", directory, i);
        create(path, i);
    }
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%s/%d", directory, i);
        right += (uint64_t)holds(path, i);
        if (unlink(path) != 0)
            fail("unlink");
    }
    return right;
}

int main(int argc, char **argv)
{
    if (mkdtemp(directory) == NULL)
        fail("mkdtemp");
    int code = measure("files", work, FILES, 50, argc, argv);
    rmdir(directory);
    return code;
}
