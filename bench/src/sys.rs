//! The few system calls that the standard library does not offer: epoll, a connect that does not wait, limits and
//! clocks. All `unsafe` of this program except the call counter's (`server/syscalls.rs`) stands here. Called by the
//! client loops and the floor server; knows no protocol.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Wake when there is something to read, or the other side has gone.
pub const READ: u32 = libc::EPOLLIN as u32;
/// Wake when there is space to write.
pub const WRITE: u32 = libc::EPOLLOUT as u32;

/// Nanoseconds of the monotonic clock; the same in every process of this machine.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lets timeouts of the calling thread end within a microsecond; the default slack of 50 µs would show in latency.
pub fn sharpen_timers() {
    // SAFETY: changes only the calling thread's timer slack, in nanoseconds.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000) };
}

/// Raises the soft limit of open descriptors to the hard one and returns it.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a live rlimit.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
    }
    limit.rlim_cur
}

/// User and system CPU seconds of this process, all threads.
pub fn own_cpu_seconds() -> f64 {
    // SAFETY: an all-zero rusage is valid, and getrusage fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Clock ticks a second in /proc/PID/stat.
pub fn ticks_per_second() -> f64 {
    // SAFETY: no pointers.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// Asks a process to end politely. The caller owns the process, so the number cannot have been given away.
pub fn terminate(pid: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid as i32, libc::SIGTERM) }).map(drop)
}

/// Makes the kernel end this process when its parent dies, so that an interrupted run leaves nothing behind.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: no pointers; async-signal-safe, so it may run between fork and exec.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

/// What a fresh connection should look like, beyond its target.
#[derive(Clone, Copy, Default)]
pub struct Dialing {
    /// Source address; `None` lets the kernel choose.
    pub source: Option<Ipv4Addr>,
    /// Receive buffer in bytes; `None` leaves the kernel's own growing one.
    pub receive_buffer: Option<i32>,
}

/// Starts to connect and returns at once; the socket becomes writable when it is decided.
pub fn dial(target: SocketAddrV4, how: Dialing) -> io::Result<TcpStream> {
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: plain calls with live pointers of the right length; the descriptor is owned at once.
    unsafe {
        let socket = OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, flags, 0))?);
        let fd = socket.as_raw_fd();
        set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        if let Some(bytes) = how.receive_buffer {
            set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
        }
        if let Some(source) = how.source {
            // The port is chosen at connect, so that one port can serve many source addresses.
            set_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            let address = sockaddr(SocketAddrV4::new(source, 0));
            check(libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32))?;
        }
        let address = sockaddr(target);
        match check(libc::connect(fd, (&raw const address).cast(), size_of_val(&address) as u32)) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(TcpStream::from(socket))
    }
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// # Safety
/// `fd` must be an open socket.
unsafe fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is a live i32 and its length is given.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), 4) }).map(drop)
}

/// Turns the C convention (-1 and errno) into a Result.
fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// One thing that happened: which socket (the number given at `add`) and which readiness bits.
#[derive(Clone, Copy)]
pub struct Event {
    pub token: usize,
    pub bits: u32,
}

impl Event {
    /// True for data, end of stream and errors alike: a read tells which.
    pub fn readable(self) -> bool {
        self.bits & !WRITE != 0
    }

    pub fn writable(self) -> bool {
        self.bits & WRITE != 0
    }
}

/// A level-triggered epoll instance.
pub struct Poller {
    epoll: OwnedFd,
    raw: Vec<libc::epoll_event>,
}

impl Poller {
    /// `events_max` is how many events one `wait` may return.
    pub fn new(events_max: usize) -> io::Result<Self> {
        // SAFETY: the new descriptor is owned at once.
        let epoll = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Self { epoll, raw: vec![libc::epoll_event { events: 0, u64: 0 }; events_max] })
    }

    pub fn add(&self, socket: &impl AsRawFd, token: usize, bits: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, token, bits)
    }

    pub fn change(&self, socket: &impl AsRawFd, token: usize, bits: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, token, bits)
    }

    pub fn remove(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, socket, 0, 0)
    }

    fn control(&self, operation: i32, socket: &impl AsRawFd, token: usize, bits: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: bits, u64: token as u64 };
        // SAFETY: both descriptors are open, as they are borrowed; the event is live.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, socket.as_raw_fd(), &mut event) })
            .map(drop)
    }

    /// Waits at most `timeout_ns` and fills `events`. An interrupted wait returns no events.
    pub fn wait(&mut self, events: &mut Vec<Event>, timeout_ns: u64) -> io::Result<()> {
        events.clear();
        let timeout = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as i64,
            tv_nsec: (timeout_ns % 1_000_000_000) as i64,
        };
        // SAFETY: the buffer is live and its length is given; no signal mask. The plain epoll_wait counts in whole
        // milliseconds, too coarse for a schedule of thousands of messages a second.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                self.raw.as_mut_ptr(),
                self.raw.len() as i32,
                &timeout,
                std::ptr::null::<libc::sigset_t>(),
                8usize,
            )
        };
        match check(count as i32) {
            Ok(count) => {
                let ready = self.raw.iter().take(count as usize);
                events.extend(ready.map(|event| Event { token: event.u64 as usize, bits: event.events }));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}
