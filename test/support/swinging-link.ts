/** A line whose capacity swings (swinging-link-main.ts), as a child process. */
import type { ChildProcess } from 'node:child_process';
import { endForked, heardFrom, startForked } from './forked.js';
import type { SwingingLinkAsked, SwingingLinkSays } from './swinging-link-main.js';

/** At a moment (`nowOfMachineMs`): the line's capacity, and how many bytes have arrived so far, by port. */
export type LineSample = { readonly atMs: number; readonly bitsPerSecond: number; readonly bytes: readonly number[] };

export class SwingingLink implements AsyncDisposable {
  readonly ports: readonly number[];
  readonly samples: LineSample[] = [];
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, ports: readonly number[]) {
    this.#child = child;
    this.ports = ports;
    child.on('message', (message) => {
      const says = message as SwingingLinkSays;
      if ('atMs' in says) this.samples.push(says);
    });
  }

  /** A port for each server that it leads to. */
  static async open(of: {
    readonly toPorts: readonly number[];
    readonly roundTripMs: number;
    readonly bitsPerSecond: number;
  }): Promise<SwingingLink> {
    const main = new URL('./swinging-link-main.js', import.meta.url);
    const child = startForked(main, [of.roundTripMs, ...of.toPorts]);
    const says = (await heardFrom(child)) as SwingingLinkSays;
    const link = new SwingingLink(child, 'ports' in says ? says.ports : []);
    link.setCapacity(of.bitsPerSecond);
    return link;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  setCapacity(bitsPerSecond: number): void {
    this.#child.send({ bitsPerSecond } satisfies SwingingLinkAsked);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await endForked(this.#child);
  }
}
