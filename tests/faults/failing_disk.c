/* Makes operations that write to files under one folder fail, as a full or protected disk would. Loaded by LD_PRELOAD.
 *
 * faults_arm(folder, at, error, trace): from now on operations under the folder are counted from 1; the one numbered `at` (0:
 * none), and every later one on a full disk (ENOSPC) or on the same file (any other error), fails with `error`. A write to
 * a disk that fills up takes the first half of its bytes. With a trace, each operation is a line "NAME PATH" in that file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static char folder[4096], failed[4096];
static long count, fail_at;
static int fail_with, trace_fd = -1;

void faults_arm(const char *where, long at, int error, const char *trace) {
    count = 0, fail_at = at, fail_with = error, failed[0] = 0;
    snprintf(folder, sizeof folder, "%s", where);
    trace_fd = trace ? REAL(open)(trace, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
}

/* Counts an operation; gives 0 to let it pass, 1 if it is the first to fail, 2 for the later ones. */
static int faulty(const char *name, const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder))) return 0;
    count++;
    if (trace_fd >= 0) {
        char line[4300];
        int length = snprintf(line, sizeof line, "%s %s\n", name, path);
        REAL(write)(trace_fd, line, length);
    }
    if (!fail_at || count < fail_at) return 0;
    if (count > fail_at && fail_with != ENOSPC && strcmp(path, failed)) return 0;
    if (count == fail_at) snprintf(failed, sizeof failed, "%s", path);
    errno = fail_with;
    return count == fail_at ? 1 : 2;
}

static int faulty_fd(const char *name, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return faulty(name, path);
}

ssize_t write(int fd, const void *bytes, size_t size) {
    int fault = faulty_fd("write", fd);
    if (fault == 1 && fail_with == ENOSPC && size > 1) return REAL(write)(fd, bytes, size / 2);
    if (fault) return errno = fail_with, -1;
    return REAL(write)(fd, bytes, size);
}

size_t fwrite(const void *items, size_t size, size_t number, FILE *file) {
    if (folder[0] && faulty_fd("write", fileno(file))) return errno = fail_with, 0;
    return REAL(fwrite)(items, size, number, file);
}

int fsync(int fd) { return faulty_fd("fsync", fd) ? (errno = fail_with, -1) : REAL(fsync)(fd); }

int mkdir(const char *path, mode_t mode) {
    if (access(path, F_OK) == 0) return errno = EEXIST, -1; /* a disk would say so first */
    return faulty("mkdir", path) ? (errno = fail_with, -1) : REAL(mkdir)(path, mode);
}

int rename(const char *from, const char *to) {
    return faulty("rename", to) ? (errno = fail_with, -1) : REAL(rename)(from, to);
}

#define OPEN(name)                                                             \
    int name(const char *path, int flags, ...) {                               \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                          \
        if (flags & (O_WRONLY | O_RDWR) && faulty("open", path)) return errno = fail_with, -1; \
        return REAL(name)(path, flags, mode);                                  \
    }
OPEN(open)
OPEN(open64)
