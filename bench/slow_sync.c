// A slow disk on a fast one: with this library in LD_PRELOAD every fsync and fdatasync of a program takes SYNC_US
// microseconds longer (3000 where it is not set), as on a disk that syncs some 300 times a second.
//
//     cc -O1 -shared -fPIC bench/slow_sync.c -o target/slow_sync.so
//     SYNC_US=3300 LD_PRELOAD=$PWD/target/slow_sync.so target/release/roomcast-bench durable …
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int slow(long call, int file) {
    const char *text = getenv("SYNC_US");
    long us = text ? atol(text) : 3000;
    struct timespec pause = {us / 1000000, us % 1000000 * 1000};
    while (nanosleep(&pause, &pause)) {}
    return syscall(call, file);
}

int fsync(int file) { return slow(SYS_fsync, file); }
int fdatasync(int file) { return slow(SYS_fdatasync, file); }
