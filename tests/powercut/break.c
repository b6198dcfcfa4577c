// A disk that breaks once: LD_PRELOAD this.
//
//   BREAK_BELOW  how the paths begin of the files that are touched, from the root on
//   BREAK_ENDING how they end: `-wal`, a write-ahead log, unless it says otherwise
//   BREAK_WHEN   a file; when it says `sync` or `write`, the next one fails with EIO, and the file is
//                removed
//
// It breaks once, like a real disk: after a sync that failed, Linux may have dropped what was to be
// written, and the next sync reports success. Who tries again is told a lie.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ({ static __typeof__(&name) real; \
    if (!real) { real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); } real; })

static int is_meant(int fd) {
    const char *below = getenv("BREAK_BELOW"), *ending = getenv("BREAK_ENDING");
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!ending) ending = "-wal";
    if (!below || length < (ssize_t)strlen(ending)) return 0;
    path[length] = 0;
    return !strncmp(path, below, strlen(below)) && !strcmp(path + length - strlen(ending), ending);
}

static int breaks(int fd, const char *what) {
    const char *when = getenv("BREAK_WHEN");
    int kept = errno, broken = 0;
    int trigger = when ? open(when, O_RDONLY | O_CLOEXEC) : -1;
    if (trigger >= 0) {
        char said[16] = "";
        ssize_t length = read(trigger, said, sizeof said - 1);
        close(trigger);
        // Of several at once, one can remove it.
        broken = length > 0 && !strcmp(said, what) && is_meant(fd) && !unlink(when);
    }
    errno = broken ? EIO : kept;
    return broken;
}

int fsync(int fd) { return breaks(fd, "sync") ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return breaks(fd, "sync") ? -1 : REAL(fdatasync)(fd); }

ssize_t write(int fd, const void *data, size_t length) {
    return breaks(fd, "write") ? -1 : REAL(write)(fd, data, length);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return breaks(fd, "write") ? -1 : REAL(pwrite)(fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return breaks(fd, "write") ? -1 : REAL(pwrite64)(fd, data, length, offset);
}
