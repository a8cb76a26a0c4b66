/* Counts what a process does to the files below a folder, and ends or hinders it at a chosen count.

   Preloaded (LD_PRELOAD). FAULT_FOLDER: absolute path of the folder. FAULT_AT: number of the operation, from 1.
   FAULT_ERRNO: without it the process is killed (SIGKILL) just before the operation; with it this and all later
   writing operations fail with that error, as on a full disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long done = 0;

long fault_count(void) { return done; }
void fault_reset(void) { done = 0; }

static int inside(const char *path) {
    const char *folder = getenv("FAULT_FOLDER");
    if (!folder || !*folder || !path) return 0;
    char whole[PATH_MAX];
    if (path[0] != '/') {
        if (!getcwd(whole, sizeof whole)) return 0;
        size_t used = strlen(whole);
        snprintf(whole + used, sizeof whole - used, "/%s", path);
        path = whole;
    }
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int inside_fd(int fd) {
    if (!getenv("FAULT_FOLDER")) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

/* Whether the operation is to fail; does not return where the process is to end. */
static int faulty(void) {
    const char *at = getenv("FAULT_AT");
    done++;
    if (!at || done < atol(at)) return 0;
    const char *error = getenv("FAULT_ERRNO");
    if (!error) raise(SIGKILL);
    errno = atoi(error);
    return 1;
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    return inside_fd(fd) && faulty() ? -1 : real(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    return inside_fd(fd) && faulty() ? -1 : real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    return inside_fd(fd) && faulty() ? -1 : real(fd, data, size, at);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    return inside_fd(fd) && faulty() ? -1 : real(fd, parts, count);
}
int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    return inside_fd(fd) && faulty() ? -1 : real(fd, size);
}
int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    return inside_fd(fd) && faulty() ? -1 : real(fd, size);
}
int fsync(int fd) {
    REAL(fsync);
    return inside_fd(fd) && faulty() ? -1 : real(fd);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    return inside(to) && faulty() ? -1 : real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(renameat);
    return inside(to) && faulty() ? -1 : real(a, from, b, to);
}
int unlink(const char *path) {
    REAL(unlink);
    /* removing works on a full disk */
    if (inside(path) && !getenv("FAULT_ERRNO")) faulty();
    return real(path);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return inside(path) && faulty() ? -1 : real(path, mode);
}
static int makes(int flags) { return flags & (O_CREAT | O_TRUNC); }
#define OPEN(name)                                                              \
    int name(const char *path, int flags, ...) {                                \
        REAL(name);                                                             \
        va_list more;                                                           \
        va_start(more, flags);                                                  \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                           \
        return makes(flags) && inside(path) && faulty() ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
FILE *fopen(const char *path, const char *mode) {
    REAL(fopen);
    return mode[0] == 'w' && inside(path) && faulty() ? NULL : real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64);
    return mode[0] == 'w' && inside(path) && faulty() ? NULL : real(path, mode);
}
