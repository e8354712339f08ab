/**
 * An emulated line of packets, beside link.mjs, which is one of bytes between two local sockets: two network namespaces (this one, and one for the server),
 * a device in each, the kernel's token buckets on both, and a program that delays what passes (packet_line.py; this kernel has no netem). TCP's handshake,
 * slow start and congestion control (reno at the server, which every namespace may have) are the kernel's. Wants root.
 */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { Child, runOrThrow } from './child.js';
import type { LinkRates } from './link.js';
import { ROOT } from './paths.js';

const PYTHON = '/usr/bin/python3';
const PROGRAM = path.join(ROOT, 'test/support/packet_line.py');
/** Two frames at least, and what a processor that comes late has to make up for. */
const BURST_BYTES = 32_768;
/** As link.mjs: a router's buffer of 250 ms, 64 KiB at the least. */
const QUEUE_SECONDS = 0.25;
const QUEUE_BYTES_MIN = 65_536;

/** Of a full frame so much is TCP's payload (1,500 bytes with time stamps; the kernel counts IP packets on such a device). */
export const PAYLOAD_SHARE = 1_448 / 1_500;

export class PacketLine implements AsyncDisposable {
  /** Where the server is, seen from here. */
  readonly address: string;
  /** Before a command that is to run at the far end. */
  readonly atFarEnd: readonly string[];
  readonly #near: string;
  /** The far end's namespace lives as long as this process in it, so nothing is left over when we die. */
  readonly #holder: Child;
  readonly #delay: Child;

  private constructor(of: {
    readonly near: string;
    readonly address: string;
    readonly holder: Child;
    readonly delay: Child;
  }) {
    const { near, address, holder, delay } = of;
    this.#near = near;
    this.address = address;
    this.#holder = holder;
    this.#delay = delay;
    this.atFarEnd = ['nsenter', `--net=/proc/${holder.process.pid ?? 0}/ns/net`];
  }

  /** Errors when not root. */
  static async open({ downBitsPerSecond, upBitsPerSecond, roundTripMs }: LinkRates): Promise<PacketLine> {
    if (process.getuid?.() !== 0)
      throw new Error('a line of packets needs root (network namespaces, /dev/net/tun): run this part as root');
    // One of 16,384 networks of two addresses, so that lines of other runs are not in the way.
    const random = randomBytes(3);
    const name = `line${random.toString('hex')}`;
    const addressOf = (end: number): string => `10.203.${random[0] ?? 0}.${((random[1] ?? 0) & 0xfc) + end}`;
    const [near, far] = [`${name}n`, `${name}f`];
    const holder = new Child('far end', 'unshare', ['--net', 'sh', '-c', 'echo in; exec cat']);
    const delay = new Child('line', PYTHON, [PROGRAM, near, far, String(roundTripMs / 2)]);
    const line = new PacketLine({ near, address: addressOf(2), holder, delay });
    try {
      await Promise.all([holder.waitFor(/in/), delay.waitFor(/line up/)]);
      await at([], 'ip', ['link', 'set', far, 'netns', String(holder.process.pid)]);
      for (const [device, address, where] of [
        [near, addressOf(1), []],
        [far, line.address, line.atFarEnd],
      ] as const) {
        await at(where, 'ip', ['addr', 'add', `${address}/30`, 'dev', device]);
        await at(where, 'ip', ['link', 'set', device, 'up']);
      }
      await bucket([], near, upBitsPerSecond);
      await bucket(line.atFarEnd, far, downBitsPerSecond);
      const settings = ['net.ipv4.tcp_congestion_control=reno', 'net.ipv4.tcp_no_metrics_save=1'];
      await at(line.atFarEnd, 'sysctl', ['-q', '-w', ...settings]);
      return line;
    } catch (error) {
      await line[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** What has come from the far end, headers included. */
  async downBytes(): Promise<number> {
    return Number(await readFile(`/sys/class/net/${this.#near}/statistics/rx_bytes`, 'latin1'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#delay.stop();
    await this.#holder.stop();
  }
}

const at = async (where: readonly string[], ...command: [string, readonly string[]]): Promise<unknown> => {
  const [program = '', ...words] = [...where, command[0], ...command[1]];
  return await runOrThrow(program, words);
};

const bucket = async (where: readonly string[], device: string, bitsPerSecond: number): Promise<unknown> => {
  const queueBytes = Math.max(QUEUE_BYTES_MIN, Math.round((bitsPerSecond / 8) * QUEUE_SECONDS));
  const shape = ['rate', `${bitsPerSecond}bit`, 'burst', String(BURST_BYTES), 'limit', String(queueBytes)];
  return await at(where, 'tc', ['qdisc', 'add', 'dev', device, 'root', 'tbf', ...shape]);
};
