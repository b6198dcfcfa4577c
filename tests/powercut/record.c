// Notes down, in order, what a program does to the files below one folder: LD_PRELOAD this.
//
//   RECORD_BELOW  the folder, an absolute path
//   RECORD_TO     the log, which is appended to; `log.rs` reads it
//   RECORD_SLOWLY microseconds that each sync takes longer, as on a slow disk
//
// A power cut keeps what was synced and loses, or tears, the rest. So the log has what a sync was
// asked for and when it was granted: whatever was written before the asking is safe after the grant.
// What this file does not understand, it notes as UNSUPPORTED, and the test fails: a record with
// holes proves nothing. `-shm` files are left out: SQLite makes them anew when it opens a database.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum op {
    OPEN = 1, WRITE, TRUNCATE, GROW, SYNC_BEGIN, SYNC_END, RENAME, UNLINK, MKDIR, RMDIR, UNSUPPORTED, LINK
};

struct header {
    uint32_t op;
    uint32_t path_length;
    uint64_t handle; // of an open file; never the same for two opens
    uint64_t offset; // of a write; the flags of an open; the number of a sync; the new size of a file
    uint64_t length; // of the data that follow the path
};

#define REAL(name) ({ static __typeof__(&name) real; \
    if (!real) { real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); } real; })

#define MOST_FILES 65536
static uint64_t handles[MOST_FILES]; // by file descriptor; 0: not below the folder
static uint64_t next_handle;
static uint64_t next_sync;
static int log_fd = -1;
static useconds_t sync_slowly;
static char below[PATH_MAX];
static size_t below_length;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
    const char *folder = getenv("RECORD_BELOW"), *to = getenv("RECORD_TO");
    const char *slowly = getenv("RECORD_SLOWLY");
    if (!folder || !to) return;
    sync_slowly = slowly ? (useconds_t)atoi(slowly) : 0;
    log_fd = REAL(open64)(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct stat status;
    if (log_fd < 0 || fstat(log_fd, &status)) abort();
    // A log that is continued has fewer handles than bytes, so these are new.
    next_handle = next_sync = (uint64_t)status.st_size + 1;
    below_length = (size_t)snprintf(below, sizeof below, "%s", folder);
}

// Appends one record, whole.
static void note_with(enum op op, uint64_t handle, uint64_t offset, uint64_t length,
                      const char *path, const struct iovec *data, int count) {
    int error = errno;
    struct header header = {op, path ? (uint32_t)strlen(path) : 0, handle, offset, length};
    struct iovec parts[2 + IOV_MAX] = {
        {&header, sizeof header}, {(void *)(path ? path : ""), header.path_length}};
    size_t left = sizeof header + header.path_length, used = 2;
    uint64_t data_left = length;
    for (int i = 0; i < count && data_left; i++) {
        size_t size = data[i].iov_len < data_left ? data[i].iov_len : data_left;
        parts[used++] = (struct iovec){data[i].iov_base, size};
        data_left -= size;
        left += size;
    }
    pthread_mutex_lock(&lock);
    ssize_t written = REAL(writev)(log_fd, parts, (int)(used > IOV_MAX ? IOV_MAX : used));
    pthread_mutex_unlock(&lock);
    if (written != (ssize_t)left) abort();
    errno = error;
}

static void note(enum op op, uint64_t handle, uint64_t offset, uint64_t length, const char *path) {
    note_with(op, handle, offset, length, path, NULL, 0);
}

static void unsupported(const char *what) { note(UNSUPPORTED, 0, 0, 0, what); }

static uint64_t handle_of(int fd) { return fd >= 0 && fd < MOST_FILES ? handles[fd] : 0; }

static void set_handle(int fd, uint64_t handle) {
    if (fd >= 0 && fd < MOST_FILES) handles[fd] = handle;
    else if (handle) unsupported("a file descriptor above 65535");
}

// Makes a path absolute. Returns it relative to the folder, or NULL when it is not below it.
static const char *inside(int folder, const char *path, char *room) {
    if (log_fd < 0 || !path) return NULL;
    if (path[0] == '/') {
        snprintf(room, PATH_MAX, "%s", path);
    } else {
        char link[64];
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, room, PATH_MAX - 1);
        if (length < 0) return NULL;
        snprintf(room + length, (size_t)(PATH_MAX - length), "/%s", path);
    }
    if (strncmp(room, below, below_length) || (room[below_length] && room[below_length] != '/')) return NULL;
    const char *relative = room + below_length;
    while (*relative == '/') relative++;
    size_t length = strlen(relative);
    if (length >= 4 && !strcmp(relative + length - 4, "-shm")) return NULL;
    if (strstr(relative, "//") || strstr(relative, "/.")) unsupported(relative);
    return relative;
}

static int opened(int fd, int folder, const char *path, int flags) {
    char room[PATH_MAX];
    if (fd < 0) return fd;
    const char *relative = inside(folder, path, room);
    uint64_t handle = 0;
    if (relative) {
        if (flags & (O_SYNC | O_DSYNC)) unsupported("O_SYNC");
        if ((flags & O_TMPFILE) == O_TMPFILE) unsupported("O_TMPFILE");
        handle = __atomic_fetch_add(&next_handle, 1, __ATOMIC_RELAXED);
        note(OPEN, handle, (uint64_t)flags, 0, relative);
    }
    set_handle(fd, handle);
    return fd;
}

#define MODE ({ mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); } mode; })

int open(const char *path, int flags, ...) { return opened(REAL(open)(path, flags, MODE), AT_FDCWD, path, flags); }
int open64(const char *path, int flags, ...) { return opened(REAL(open64)(path, flags, MODE), AT_FDCWD, path, flags); }
int openat(int folder, const char *path, int flags, ...) {
    return opened(REAL(openat)(folder, path, flags, MODE), folder, path, flags);
}
int openat64(int folder, const char *path, int flags, ...) {
    return opened(REAL(openat64)(folder, path, flags, MODE), folder, path, flags);
}
int creat(const char *path, mode_t mode) {
    return opened(REAL(creat)(path, mode), AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC);
}
int close(int fd) {
    set_handle(fd, 0); // Before the close, since another thread may get the same number at once.
    return REAL(close)(fd);
}

// Descriptors that are copied mean the same file.
int dup(int fd) { int copy = REAL(dup)(fd); if (copy >= 0) set_handle(copy, handle_of(fd)); return copy; }
int dup2(int fd, int to) { int copy = REAL(dup2)(fd, to); if (copy >= 0) set_handle(copy, handle_of(fd)); return copy; }
int dup3(int fd, int to, int flags) {
    int copy = REAL(dup3)(fd, to, flags);
    if (copy >= 0) set_handle(copy, handle_of(fd));
    return copy;
}
static int copied(int fd, int command, int result) {
    if (result >= 0 && (command == F_DUPFD || command == F_DUPFD_CLOEXEC)) set_handle(result, handle_of(fd));
    return result;
}
#define ARGUMENT ({ va_list list; va_start(list, command); void *it = va_arg(list, void *); va_end(list); it; })
int fcntl(int fd, int command, ...) { return copied(fd, command, REAL(fcntl)(fd, command, ARGUMENT)); }
int fcntl64(int fd, int command, ...) { return copied(fd, command, REAL(fcntl64)(fd, command, ARGUMENT)); }

static ssize_t written(int fd, const struct iovec *data, int count, off64_t offset, ssize_t result) {
    uint64_t handle = handle_of(fd);
    if (result <= 0 || !handle) return result;
    // A plain write has moved the file's position to its own end.
    if (offset < 0) offset = lseek64(fd, 0, SEEK_CUR) - result;
    if (count > IOV_MAX - 2) unsupported("a write of too many parts");
    else note_with(WRITE, handle, (uint64_t)offset, (uint64_t)result, NULL, data, count);
    return result;
}

#define ONE ((struct iovec[]){{(void *)data, size}})
ssize_t write(int fd, const void *data, size_t size) {
    return written(fd, ONE, 1, -1, REAL(write)(fd, data, size));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return written(fd, ONE, 1, offset, REAL(pwrite)(fd, data, size, offset));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    return written(fd, ONE, 1, offset, REAL(pwrite64)(fd, data, size, offset));
}
ssize_t writev(int fd, const struct iovec *data, int count) {
    return written(fd, data, count, -1, REAL(writev)(fd, data, count));
}
ssize_t pwritev(int fd, const struct iovec *data, int count, off_t offset) {
    return written(fd, data, count, offset, REAL(pwritev)(fd, data, count, offset));
}
ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t offset) {
    return written(fd, data, count, offset, REAL(pwritev64)(fd, data, count, offset));
}

int ftruncate(int fd, off_t length) {
    int result = REAL(ftruncate)(fd, length);
    if (!result && handle_of(fd)) note(TRUNCATE, handle_of(fd), (uint64_t)length, 0, NULL);
    return result;
}
int ftruncate64(int fd, off64_t length) {
    int result = REAL(ftruncate64)(fd, length);
    if (!result && handle_of(fd)) note(TRUNCATE, handle_of(fd), (uint64_t)length, 0, NULL);
    return result;
}
static int allocated(int fd, int mode, off64_t end, int result) {
    if (!result && handle_of(fd)) {
        if (mode) unsupported("fallocate with a mode");
        else note(GROW, handle_of(fd), (uint64_t)end, 0, NULL);
    }
    return result;
}
int fallocate(int fd, int mode, off_t offset, off_t length) {
    return allocated(fd, mode, offset + length, REAL(fallocate)(fd, mode, offset, length));
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    return allocated(fd, mode, offset + length, REAL(fallocate64)(fd, mode, offset, length));
}
int posix_fallocate(int fd, off_t offset, off_t length) {
    return allocated(fd, 0, offset + length, REAL(posix_fallocate)(fd, offset, length));
}
int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    return allocated(fd, 0, offset + length, REAL(posix_fallocate64)(fd, offset, length));
}

#define SYNC(name, fd) \
    uint64_t handle = handle_of(fd); \
    if (!handle) return REAL(name)(fd); \
    uint64_t number = __atomic_fetch_add(&next_sync, 1, __ATOMIC_RELAXED); \
    note(SYNC_BEGIN, handle, number, 0, NULL); \
    int result = REAL(name)(fd); \
    if (sync_slowly) usleep(sync_slowly); \
    if (!result) note(SYNC_END, handle, number, 0, NULL); \
    return result;

int fsync(int fd) { SYNC(fsync, fd) }
int fdatasync(int fd) { SYNC(fdatasync, fd) }

static int renamed(enum op op, int from_folder, const char *from, int to_folder, const char *to, int result) {
    char room[PATH_MAX], other[PATH_MAX];
    if (result) return result;
    const char *old = inside(from_folder, from, room), *new = inside(to_folder, to, other);
    if ((!old) != (!new)) unsupported("a name from outside the folder");
    else if (old) note_with(op, 0, 0, strlen(new), old, &(struct iovec){(void *)new, strlen(new)}, 1);
    return result;
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    if (flags & ~RENAME_NOREPLACE) unsupported("a rename with flags");
    return renamed(RENAME, from_folder, from, to_folder, to, REAL(renameat2)(from_folder, from, to_folder, to, flags));
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return renameat2(from_folder, from, to_folder, to, 0);
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

static int named(enum op op, int folder, const char *path, int result) {
    char room[PATH_MAX];
    const char *relative = result ? NULL : inside(folder, path, room);
    if (relative) note(op, 0, 0, 0, relative);
    return result;
}
int unlink(const char *path) { return named(UNLINK, AT_FDCWD, path, REAL(unlink)(path)); }
int unlinkat(int folder, const char *path, int flags) {
    return named(flags & AT_REMOVEDIR ? RMDIR : UNLINK, folder, path, REAL(unlinkat)(folder, path, flags));
}
int remove(const char *path) {
    char room[PATH_MAX];
    if (inside(AT_FDCWD, path, room)) unsupported("remove");
    return REAL(remove)(path);
}
int mkdir(const char *path, mode_t mode) { return named(MKDIR, AT_FDCWD, path, REAL(mkdir)(path, mode)); }
int mkdirat(int folder, const char *path, mode_t mode) { return named(MKDIR, folder, path, REAL(mkdirat)(folder, path, mode)); }
int rmdir(const char *path) { return named(RMDIR, AT_FDCWD, path, REAL(rmdir)(path)); }

// What would change a file behind our back.
static void *mapped(int protection, int flags, int fd, void *result) {
    if (handle_of(fd) && protection & PROT_WRITE && (flags & MAP_TYPE) != MAP_PRIVATE) unsupported("a shared mapping");
    return result;
}
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    return mapped(protection, flags, fd, REAL(mmap)(at, size, protection, flags, fd, offset));
}
void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset) {
    return mapped(protection, flags, fd, REAL(mmap64)(at, size, protection, flags, fd, offset));
}
ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t size, unsigned flags) {
    if (handle_of(to)) unsupported("copy_file_range");
    return REAL(copy_file_range)(from, from_offset, to, to_offset, size, flags);
}
int truncate(const char *path, off_t length) {
    char room[PATH_MAX];
    if (inside(AT_FDCWD, path, room)) unsupported("truncate");
    return REAL(truncate)(path, length);
}
int truncate64(const char *path, off64_t length) {
    char room[PATH_MAX];
    if (inside(AT_FDCWD, path, room)) unsupported("truncate64");
    return REAL(truncate64)(path, length);
}
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    return renamed(LINK, from_folder, from, to_folder, to, REAL(linkat)(from_folder, from, to_folder, to, flags));
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int symlink(const char *to, const char *path) {
    char room[PATH_MAX];
    if (inside(AT_FDCWD, path, room)) unsupported("symlink");
    return REAL(symlink)(to, path);
}
