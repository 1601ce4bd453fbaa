// Faults on demand for a server that runs with this library in LD_PRELOAD. FAULTS names a file of two 64-bit
// numbers, which the test changes while the server runs:
//   [0] seconds that are added to the time of day; the monotonic clock goes on untouched
//   [1] not 0: every fsync and fdatasync fails with EIO, and what was written into the journal since its last
//       good sync is gone, as it may be on a real disk (a later fsync that succeeds does not bring it back)
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FILES 4096

static volatile long long *faults;
static long long first[FILES], past[FILES];  // bytes of each journal file that are not synced yet

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *map = file < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ, MAP_SHARED, file, 0);
    if (map == MAP_FAILED) {
        fprintf(stderr, "FAULTS does not name a file of two numbers\n");
        _exit(99);
    }
    close(file);
    faults = map;
}

static int in_journal(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, ".journal/") != NULL;
}

static ssize_t put(int file, const void *bytes, size_t count, off_t at) {
    ssize_t written = syscall(SYS_pwrite64, file, bytes, count, at);
    if (written > 0 && file < FILES && in_journal(file)) {
        if (past[file] == 0 || at < first[file]) first[file] = at;
        if (at + written > past[file]) past[file] = at + written;
    }
    return written;
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) { return put(file, bytes, count, at); }
ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) { return put(file, bytes, count, at); }

static int sync_with(long call, int file) {
    int fails = faults[1] != 0;
    if (fails && file < FILES && in_journal(file)) {
        static const char zeros[4096];
        for (long long at = first[file]; at < past[file];) {
            long long left = past[file] - at, count = left < 4096 ? left : 4096;
            if (syscall(SYS_pwrite64, file, zeros, count, at) <= 0) break;
            at += count;
        }
    }
    if (file < FILES) first[file] = past[file] = 0;
    if (!fails) return syscall(call, file);
    errno = EIO;
    return -1;
}

// A number that is given out again stands for another file.
int close(int file) {
    if (file >= 0 && file < FILES) first[file] = past[file] = 0;
    return syscall(SYS_close, file);
}

int fsync(int file) { return sync_with(SYS_fsync, file); }
int fdatasync(int file) { return sync_with(SYS_fdatasync, file); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += faults[0];
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
