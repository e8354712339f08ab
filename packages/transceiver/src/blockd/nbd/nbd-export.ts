/**
 * One disk as the NBD server offers it, and the rule about former connections.
 *
 * A client that lost its connection repeats what was unanswered on a new one. A write of the dead connection that lands
 * after the repeated one, or after a later write to the same place, would be a wrong byte for ever. So a new
 * connection is let in (`admit`) only after every connection whose client is gone has ended its operations; requests of
 * such a client that were not started yet are thrown away: nobody waits for their replies.
 */
import { syscalls } from '../syscalls.js';
import type { BlockDevice } from '../block-device.js';
import type { DiskRecording } from '../request-recording.js';
import { BusyTime } from './busy-time.js';
import { NBD_LIMITS } from './nbd-limits.js';
import { TRANSMISSION_FLAG } from './nbd-protocol.js';

/** What an export needs to know of a connection that uses it. */
export interface ExportUser {
  /** True when the client has closed its end; never true for a client that lives. May not know without koffi. */
  clientIsGone(): boolean;
  /** True while the connection is not read from, so that the end of its client cannot be seen. */
  readonly isPaused: boolean;
  /** Starts nothing more and closes the socket. */
  abandon(): void;
  /** Resolves when it starts nothing more and its last operation is over. */
  readonly quiet: Promise<void>;
  /** True from the moment the connection starts nothing more. */
  readonly isEnding: boolean;
}

const eventLoopTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export class NbdExport {
  readonly name: string;
  readonly description: string;
  readonly device: BlockDevice;
  readonly preferredBlockBytes: number;
  /** Time with a request unanswered, all connections together. */
  readonly busy = new BusyTime();
  /** Set while somebody records what is asked of this disk. */
  recording: DiskRecording | undefined;
  readonly #users = new Set<ExportUser>();

  constructor(options: {
    readonly name: string;
    readonly device: BlockDevice;
    readonly description?: string;
    /** What clients should align to; a power of two. Default 4096. */
    readonly preferredBlockBytes?: number;
  }) {
    this.name = options.name;
    this.device = options.device;
    this.description = options.description ?? '';
    this.preferredBlockBytes = options.preferredBlockBytes ?? 4096;
  }

  /** A flush covers the writes of all connections, because they share one device: so many connections are allowed. */
  transmissionFlags(options: { readonly structuredReplies: boolean }): number {
    const { readOnly, zeroIsFast } = this.device;
    const flag = TRANSMISSION_FLAG;
    let flags = flag.hasFlags | flag.sendFlush | flag.sendFua | flag.canMultiConn | flag.sendCache;
    if (options.structuredReplies) flags |= flag.sendDf;
    if (readOnly) return flags | flag.readOnly;
    flags |= flag.sendTrim | flag.sendWriteZeroes;
    return zeroIsFast === undefined ? flags : flags | flag.sendFastZero;
  }

  enter(user: ExportUser): void {
    this.#users.add(user);
    void user.quiet.then(() => this.#users.delete(user));
  }

  /** Resolves when no operation of a connection whose client is gone can land any more. */
  async admit(): Promise<void> {
    const former = [...this.#users];
    if (former.length === 0) return;
    if (syscalls === undefined) {
      // What has arrived on a socket that is read from, its end too, is handled within two turns of the event loop.
      await eventLoopTurn();
      await eventLoopTurn();
      await this.#waitForPaused(former);
    }
    for (const user of former) if (!user.isEnding && user.clientIsGone()) user.abandon();
    await Promise.all(former.filter((user) => user.isEnding).map((user) => user.quiet));
  }

  /** A connection that does not read may hide that its client is gone. It gets a moment, then it is taken for dead. */
  async #waitForPaused(users: readonly ExportUser[]): Promise<void> {
    const deadlineMs = performance.now() + NBD_LIMITS.formerConnectionMs;
    const hidden = (): ExportUser[] => users.filter((user) => user.isPaused && !user.isEnding);
    while (hidden().length > 0 && performance.now() < deadlineMs) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    for (const user of hidden()) user.abandon();
  }
}
