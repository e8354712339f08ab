/** The views of one disk that are served: one at a time of each sealed layer, read-only, on a socket of its own. */
import type net from 'node:net';
import { CollectiveError } from '@collective/shared';
import { NbdExport } from './nbd/nbd-export.js';
import { NbdServer } from './nbd/nbd-server.js';
import type { OverlayView } from './overlay/overlay-view.js';

type Listener = () => Promise<{ readonly path: string } | { readonly fd: number } | { readonly server: net.Server }>;

type Served = { readonly close: () => Promise<void> };

export class AttachedViews {
  readonly #onFailed: (error: unknown) => void;
  /** By layer; also while it opens. */
  readonly #served = new Map<string, Promise<Served>>();

  constructor(onFailed: (error: unknown) => void) {
    this.#onFailed = onFailed;
  }

  /** Resolves when clients can connect. Errors: `exists`, those of `openView` and of the socket. */
  async open(
    layer: string,
    listener: Listener,
    of: { readonly name: string; readonly description: string; readonly openView: () => Promise<OverlayView> },
  ): Promise<void> {
    if (this.#served.has(layer)) throw new CollectiveError('exists', `a view of ${layer} is open already`);
    const opening = this.#serve(listener, of);
    this.#served.set(layer, opening);
    try {
      await opening;
    } catch (error) {
      this.#served.delete(layer);
      throw error;
    }
  }

  /** False when there is none. */
  async close(layer: string): Promise<boolean> {
    const opening = this.#served.get(layer);
    this.#served.delete(layer);
    const served = await opening?.catch(() => undefined); // told to who opens it
    await served?.close();
    return served !== undefined;
  }

  async closeAll(): Promise<void> {
    await Promise.all([...this.#served.keys()].map((layer) => this.close(layer)));
  }

  async #serve(
    listener: Listener,
    of: { readonly name: string; readonly description: string; readonly openView: () => Promise<OverlayView> },
  ): Promise<Served> {
    const view = await of.openView();
    try {
      const nbdExport = new NbdExport({ name: of.name, device: view, description: of.description });
      const server = await NbdServer.open({
        listen: await listener(),
        exports: [nbdExport],
        failed: this.#onFailed,
      });
      return {
        close: async () => {
          try {
            await server.close();
          } finally {
            await view.close();
          }
        },
      };
    } catch (error) {
      await view.close();
      throw error;
    }
  }
}
