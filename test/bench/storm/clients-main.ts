/**
 * A process of the storm's clients: it opens as many as it is told to, lets them describe and fetch when it is told the moment, and says when each
 * of them was done (clients-process.ts).
 */
import type { BlockRequest } from '@collective/transceiver';
import { nowOfMachineMs } from '../../support/machine-clock.js';
import { StormClient, type Fetched, type StormClientOptions } from './storm-client.js';

export type ClientsAsked =
  | { readonly kind: 'open'; readonly clients: readonly StormClientOptions[] }
  /** All clients begin at `atMs`, by `nowOfMachineMs`. */
  | { readonly kind: 'describe' | 'fetch'; readonly atMs: number }
  | { readonly kind: 'close' };
/** In the order in which the clients were opened. */
export type ClientsSay =
  | { readonly kind: 'opened' | 'closed' }
  | {
      readonly kind: 'described' | 'fetched';
      readonly seconds: readonly number[];
      readonly fetched: readonly Fetched[];
    }
  | { readonly kind: 'failed'; readonly message: string };

class Clients {
  readonly #clients: { readonly client: StormClient; requests: readonly BlockRequest[] }[] = [];

  async take(asked: ClientsAsked): Promise<ClientsSay> {
    switch (asked.kind) {
      case 'open':
        for (const options of asked.clients) this.#clients.push({ client: new StormClient(options), requests: [] });
        return { kind: 'opened' };
      case 'describe':
        return await this.#allAt(asked.atMs, 'described', async (each) => {
          each.requests = await each.client.describe();
          if (each.requests.length === 0) throw new Error('the boot trace is empty');
        });
      case 'fetch':
        return await this.#allAt(asked.atMs, 'fetched', async ({ client, requests }) => client.fetch(requests));
      case 'close':
        await Promise.all(this.#clients.splice(0).map(async ({ client }) => client.close()));
        return { kind: 'closed' };
      default:
        return asked satisfies never;
    }
  }

  async #allAt(
    atMs: number,
    kind: 'described' | 'fetched',
    work: (each: { readonly client: StormClient; requests: readonly BlockRequest[] }) => Promise<void>,
  ): Promise<ClientsSay> {
    await new Promise((resolve) => setTimeout(resolve, atMs - nowOfMachineMs()));
    const seconds = await Promise.all(
      this.#clients.map(async (each) => {
        await work(each);
        return (nowOfMachineMs() - atMs) / 1000;
      }),
    );
    return { kind, seconds, fetched: this.#clients.map(({ client }) => client.fetched) };
  }
}

const clients = new Clients();
process.on('message', (message) => {
  clients
    .take(message as ClientsAsked)
    .catch((error: unknown): ClientsSay => ({ kind: 'failed', message: String(error) }))
    .then((says) => process.send?.(says))
    .catch(() => process.exit(1));
});
process.on('disconnect', () => process.exit(0));
