// Faults on demand for a server that runs with this library in LD_PRELOAD. FAULTS names a file of three 64-bit
// numbers, which the test changes while the server runs:
//   [0] seconds that are added to the time of day; the monotonic clock goes on untouched
//   [1] 1: every fsync and fdatasync fails with EIO, and what was written into the journal since its last good
//       sync is gone, as it may be on a real disk (a later fsync that succeeds does not bring it back)
//       2: they lie: they succeed and nothing is synced
//   [2] not 0: what a power cut would take back is noted: for each write into the store, what stood there before,
//       in a file $FAULTS.<inode>; a sync of that file empties it. The test plays it back when the server is dead.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FILES 4096

static volatile long long *faults;
static const char *switches;
static long long first[FILES], past[FILES];  // bytes of each journal file that are not synced yet

__attribute__((constructor)) static void begin(void) {
    switches = getenv("FAULTS");
    int file = switches ? open(switches, O_RDONLY | O_CLOEXEC) : -1;
    void *map = file < 0 ? MAP_FAILED : mmap(NULL, 24, PROT_READ, MAP_SHARED, file, 0);
    if (map == MAP_FAILED) {
        fprintf(stderr, "FAULTS does not name a file of three numbers\n");
        _exit(99);
    }
    close(file);
    faults = map;
}

static int path_has(int file, const char *part) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
}

static int in_journal(int file) { return path_has(file, ".journal/"); }

static int in_store(int file) {
    return in_journal(file) || (path_has(file, "roomcast.db") && !path_has(file, "-shm"));
}

static void undo_path(char *path, ino_t inode) { snprintf(path, PATH_MAX, "%s.%llu", switches, (unsigned long long)inode); }

// Notes what a write is about to cover: place, length, size of the file, the bytes that were there.
static void note(int file, size_t count, off_t at) {
    struct stat now;
    if (!faults[2] || !in_store(file) || fstat(file, &now)) return;
    long long old = now.st_size > at ? now.st_size - at : 0;
    if (old > (long long)count) old = count;
    long long head[3] = {at, count, now.st_size};
    char path[PATH_MAX], *entry = malloc(sizeof head + old);
    memcpy(entry, head, sizeof head);
    // The file may be open for writing alone.
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    int again = open(path, O_RDONLY | O_CLOEXEC);
    long long had = syscall(SYS_pread64, again, entry + sizeof head, old, at);
    syscall(SYS_close, again);
    undo_path(path, now.st_ino);
    int undo = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (had != old ||
        syscall(SYS_write, undo, entry, sizeof head + old) != (long)(sizeof head + old)) {
        fprintf(stderr, "the shim cannot note a write\n");
        _exit(99);
    }
    syscall(SYS_close, undo);
    free(entry);
}

static ssize_t put(int file, const void *bytes, size_t count, off_t at) {
    note(file, count, at);
    ssize_t written = syscall(SYS_pwrite64, file, bytes, count, at);
    if (written > 0 && file < FILES && in_journal(file)) {
        if (past[file] == 0 || at < first[file]) first[file] = at;
        if (at + written > past[file]) past[file] = at + written;
    }
    return written;
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) { return put(file, bytes, count, at); }
ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) { return put(file, bytes, count, at); }

ssize_t write(int file, const void *bytes, size_t count) {
    off_t at = faults && faults[2] ? syscall(SYS_lseek, file, 0, SEEK_CUR) : -1;
    if (at >= 0) note(file, count, at);
    return syscall(SYS_write, file, bytes, count);
}

// A number that is given out again stands for another file.
int close(int file) {
    if (file >= 0 && file < FILES) first[file] = past[file] = 0;
    return syscall(SYS_close, file);
}

int unlink(const char *path) {
    struct stat now;
    char undo[PATH_MAX];
    if (faults[2] && stat(path, &now) == 0) {
        undo_path(undo, now.st_ino);
        syscall(SYS_unlink, undo);
    }
    return syscall(SYS_unlink, path);
}

static void forget_unsynced(int file) {
    static const char zeros[4096];
    for (long long at = first[file]; at < past[file];) {
        long long left = past[file] - at, count = left < 4096 ? left : 4096;
        if (syscall(SYS_pwrite64, file, zeros, count, at) <= 0) break;
        at += count;
    }
}

static int sync_with(long call, int file) {
    long long fault = faults[1];
    if (fault == 2) return 0;
    if (fault && file < FILES && in_journal(file)) forget_unsynced(file);
    if (file < FILES) first[file] = past[file] = 0;
    if (fault) {
        errno = EIO;
        return -1;
    }
    struct stat now;
    char undo[PATH_MAX];
    int result = syscall(call, file);
    if (result == 0 && faults[2] && fstat(file, &now) == 0) {
        undo_path(undo, now.st_ino);
        syscall(SYS_truncate, undo, 0);
    }
    return result;
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
