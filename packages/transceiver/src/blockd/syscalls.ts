/**
 * The few Linux calls that Node does not offer, through koffi. All of koffi lives here, because a wrong signature is a
 * crash, not an exception.
 *
 * `syscalls` is undefined where koffi or glibc on x86-64 is missing, or when COLLECTIVE_NO_KOFFI=1; every caller has a
 * way that does without. Nothing here throws: results are counts, or the negative errno as the kernel would return it.
 * No call here blocks for long but `punchHole` and `zeroRange`, which therefore run on the thread pool.
 *
 * Measured on Node 20: a call costs 0.2 us, preadv2(RWF_NOWAIT) of 4 KiB from the page cache 1.1 us, fs.readSync 1.0 us.
 */
import type Koffi from 'koffi';

export const ERRNO = {
  EPERM: 1,
  ENXIO: 6,
  EAGAIN: 11,
  EINVAL: 22,
  ENOSPC: 28,
  EPIPE: 32,
  EOPNOTSUPP: 95,
  ECONNRESET: 104,
} as const;

export interface Syscalls {
  /**
   * preadv2 with RWF_NOWAIT: fills `target` from the page cache. Bytes read (short reads are normal where only a part is
   * in memory), -EAGAIN when nothing is, -EOPNOTSUPP where the file system cannot tell.
   */
  readNowait(fd: number, target: Uint8Array, byteOffset: number): number;
  /** send with MSG_DONTWAIT | MSG_NOSIGNAL of the first `byteLength` bytes of `source`. */
  send(fd: number, source: Uint8Array, byteLength: number): number;
  /** writev-like send (sendmsg, MSG_DONTWAIT | MSG_NOSIGNAL) of at most `SEND_VECTOR_MAX` whole buffers. */
  sendVector(fd: number, sources: readonly Uint8Array[]): number;
  /** recv with MSG_DONTWAIT into the whole of `target`; 0 is the end of the stream. */
  receive(fd: number, target: Uint8Array): number;
  /** True when the peer of a unix socket has closed it, even while unread data lies in front of the end. */
  peerGone(fd: number): boolean;
  /** A second descriptor (close-on-exec) of the same open file or socket, or a negative number. */
  duplicate(fd: number): number;
  /** SO_SNDBUF; the kernel clamps it to net.core.wmem_max. */
  setSendBuffer(fd: number, byteLength: number): void;
  /** Gives back the space of a range (size kept); resolves to 0 or a negative number where it cannot. */
  punchHole(fd: number, byteOffset: number, byteLength: number): Promise<number>;
  /** Makes a range read as zeroes with its space kept; resolves to 0 or a negative number where it cannot. */
  zeroRange(fd: number, byteOffset: number, byteLength: number): Promise<number>;
  /** Where the next data (hole) at or after `byteOffset` begins; -ENXIO when there is none. */
  seekData(fd: number, byteOffset: number): number;
  seekHole(fd: number, byteOffset: number): number;
  /** posix_fadvise: `random` = no readahead, `drop` = forget clean pages, `soon` = read ahead. Length 0 is to the end. */
  advise(fd: number, byteOffset: number, byteLength: number, advice: 'normal' | 'random' | 'drop' | 'soon'): void;
  /** flock(LOCK_EX | LOCK_NB): true when the lock was got. It dies with the last descriptor, so with the process. */
  lockExclusive(fd: number): boolean;
  /** The calling thread's reads of the disk come after everybody else's (where the disk's scheduler knows of that). */
  idleDisk(): void;
  /**
   * How long that thread of this process may keep the processor when another one wakes up and wants it; threads that it starts inherit it.
   * 0 or a negative number. Linux 6.12 and later heed it.
   */
  setSlice(threadId: number, sliceUs: number): number;
}

export const SEND_VECTOR_MAX = 64;

const RWF_NOWAIT = 8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const POLLHUP = 0x10;
const POLLERR = 0x8;
const F_DUPFD_CLOEXEC = 1030;
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const FALLOC_KEEP_SIZE = 1;
const FALLOC_PUNCH_HOLE = 2;
const FALLOC_ZERO_RANGE = 0x10;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const LOCK_EX_NB = 2 | 4;
const SYS_IOPRIO_SET = 251;
const SYS_SCHED_SETATTR = 314;
const SYS_SCHED_GETATTR = 315;
/** Of struct sched_attr, first version. */
const SCHED_ATTR_BYTES = 48;
const IOPRIO_WHO_PROCESS = 1;
const IOPRIO_IDLE = 3 << 13;
const ADVICE = { normal: 0, random: 1, soon: 3, drop: 4 } as const;

const bind = (koffi: typeof Koffi): Syscalls => {
  const libc = koffi.load('libc.so.6');
  const preadv2 = libc.func('int64 preadv2(int fd, uint64 iov, int count, int64 offset, int flags)');
  const send = libc.func('int64 send(int fd, void *buffer, uint64 length, int flags)');
  const sendmsg = libc.func('int64 sendmsg(int fd, uint64 message, int flags)');
  const recv = libc.func('int64 recv(int fd, void *buffer, uint64 length, int flags)');
  const poll = libc.func('int poll(void *fds, uint64 count, int timeout)');
  const fcntl = libc.func('int fcntl(int fd, int command, int64 argument)');
  const setsockopt = libc.func('int setsockopt(int fd, int level, int name, void *value, uint32 length)');
  const fallocate = libc.func('int fallocate(int fd, int mode, int64 offset, int64 length)');
  const lseek = libc.func('int64 lseek(int fd, int64 offset, int whence)');
  const fadvise = libc.func('int posix_fadvise(int fd, int64 offset, int64 length, int advice)');
  const flock = libc.func('int flock(int fd, int operation)');
  const syscall = libc.func('int64 syscall(int64 number, int64 first, int64 second, int64 third, int64 fourth)');

  const result = (value: unknown): number => {
    const count = Number(value);
    return count < 0 ? -koffi.errno() : count;
  };

  // Vectors and structures are static and given by address: marshalling a koffi struct costs more than the call.
  // struct iovec { void *base; size_t length; }
  const vector = new BigUint64Array(2 * SEND_VECTOR_MAX);
  const vectorAddress = Number(koffi.address(vector));
  // struct msghdr { void *name; u32 namelen; (pad) iovec *iov; size_t iovlen; void *control; size_t controllen; int flags; }
  const message = new BigUint64Array(7);
  const messageAddress = Number(koffi.address(message));
  message[2] = BigInt(vectorAddress);
  // struct pollfd { int fd; short events; short revents; }
  const pollEntry = Buffer.from(new ArrayBuffer(8));

  const range = (mode: number, fd: number, byteOffset: number, byteLength: number): Promise<number> =>
    new Promise((resolve) => {
      fallocate.async(fd, mode, byteOffset, byteLength, (error: unknown, value: unknown) => {
        resolve(error !== null && error !== undefined ? -1 : Number(value));
      });
    });

  return {
    readNowait: (fd, target, byteOffset) => {
      vector[0] = koffi.address(target);
      vector[1] = BigInt(target.length);
      return result(preadv2(fd, vectorAddress, 1, byteOffset, RWF_NOWAIT));
    },
    send: (fd, source, byteLength) => result(send(fd, source, byteLength, MSG_DONTWAIT | MSG_NOSIGNAL)),
    sendVector: (fd, sources) => {
      let entry = 0;
      for (const source of sources) {
        vector[entry] = koffi.address(source);
        vector[entry + 1] = BigInt(source.length);
        entry += 2;
      }
      message[3] = BigInt(sources.length);
      return result(sendmsg(fd, messageAddress, MSG_DONTWAIT | MSG_NOSIGNAL));
    },
    receive: (fd, target) => result(recv(fd, target, target.length, MSG_DONTWAIT)),
    peerGone: (fd) => {
      pollEntry.writeInt32LE(fd, 0);
      pollEntry.writeInt16LE(0, 4);
      pollEntry.writeInt16LE(0, 6);
      return Number(poll(pollEntry, 1, 0)) > 0 && (pollEntry.readInt16LE(6) & (POLLHUP | POLLERR)) !== 0;
    },
    duplicate: (fd) => result(fcntl(fd, F_DUPFD_CLOEXEC, 0)),
    setSendBuffer: (fd, byteLength) => {
      const value = Buffer.from(new ArrayBuffer(4));
      value.writeInt32LE(byteLength);
      setsockopt(fd, SOL_SOCKET, SO_SNDBUF, value, 4);
    },
    punchHole: (fd, byteOffset, byteLength) => range(FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, fd, byteOffset, byteLength),
    zeroRange: (fd, byteOffset, byteLength) => range(FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, fd, byteOffset, byteLength),
    seekData: (fd, byteOffset) => result(lseek(fd, byteOffset, SEEK_DATA)),
    seekHole: (fd, byteOffset) => result(lseek(fd, byteOffset, SEEK_HOLE)),
    advise: (fd, byteOffset, byteLength, advice) => {
      fadvise(fd, byteOffset, byteLength, ADVICE[advice]);
    },
    lockExclusive: (fd) => Number(flock(fd, LOCK_EX_NB)) === 0,
    idleDisk: () => {
      syscall(SYS_IOPRIO_SET, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE, 0);
    },
    setSlice: (threadId, sliceUs) => {
      // struct sched_attr { u32 size, policy; u64 flags; s32 nice; u32 priority; u64 runtime, deadline, period; }
      const attributes = Buffer.from(new ArrayBuffer(SCHED_ATTR_BYTES));
      const address = Number(koffi.address(attributes));
      const got = result(syscall(SYS_SCHED_GETATTR, threadId, address, SCHED_ATTR_BYTES, 0));
      if (got < 0) return got;
      attributes.writeBigUInt64LE(BigInt(sliceUs) * 1_000n, 24);
      return result(syscall(SYS_SCHED_SETATTR, threadId, address, 0, 0));
    },
  };
};

const load = async (): Promise<Syscalls | undefined> => {
  if (process.env['COLLECTIVE_NO_KOFFI'] === '1' || process.platform !== 'linux' || process.arch !== 'x64')
    return undefined;
  try {
    const { default: koffi } = await import('koffi');
    return bind(koffi);
  } catch {
    return undefined;
  }
};

/** The calls, or undefined where they cannot be had. */
export const syscalls: Syscalls | undefined = await load();
