/**
 * A backup that uploads: the product's uploader with its gate, over the line, of an object that does not end. Nothing is sealed or packed for it,
 * which a machine's own disk and processor would notice, not the line.
 */
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  DemandLook,
  LineMeter,
  RepositoryClient,
  UploadGate,
  uploadObject,
  type BlockdStatus,
} from '@collective/transceiver';
import { ServerClient } from '../../faults/server-client.js';
import type { Repository } from '../../support/collective.js';

const APPLIANCE = 'random';
/** More than any line of the benchmark takes in a slice. */
const OBJECT_BYTES = 256 << 20;

export class Uploads {
  readonly #file: string;
  readonly #token: string;
  readonly #subscription: string;
  readonly #lease: number;

  private constructor(of: { readonly file: string; token: string; subscription: string; lease: number }) {
    this.#file = of.file;
    this.#token = of.token;
    this.#subscription = of.subscription;
    this.#lease = of.lease;
  }

  /** A person with a subscription and its lease, and the object, in that folder. */
  static async prepare(repository: Repository, folder: string): Promise<Uploads> {
    const account = `demand-${process.pid}`;
    const link = await repository.invite(account, 'publisher', { appliances: [`${APPLIANCE}:publish`] });
    const client = await ServerClient.join(link, account);
    await repository.allow(account, APPLIANCE);
    const upload = await client.upload(APPLIANCE, null, [1]);
    const { status } = await client.commit(upload, client.manifest(APPLIANCE, 1, null, [1]));
    if (status !== 201) throw new Error(`publishing was answered ${status}`);
    const params = { subscription: randomBytes(16).toString('hex') };
    await client.expect(200, 'createSubscription', { params, body: { appliance: APPLIANCE } });
    const { json } = await client.expect(200, 'takeLease', { params, body: { mode: 'free', basedOn: null } });
    await client.close();
    const file = path.join(folder, 'object');
    await writeFile(file, randomBytes(OBJECT_BYTES));
    return new Uploads({ file, token: client.token, lease: Number(json['lease']), ...params });
  }

  /** Until `stop`. `status`: of the block daemon, for the gate. */
  begin(
    port: number,
    status: () => Promise<BlockdStatus>,
  ): { readonly sentBytes: () => number; readonly stop: () => Promise<void> } {
    const client = new RepositoryClient(
      { origin: `http://127.0.0.1:${port}` },
      { tokens: { token: async () => this.#token } },
    );
    const ending = new AbortController();
    const demand = new DemandLook(status);
    let sentBytes = 0;
    const uploading = uploadObject({
      ...{ client, subscription: this.#subscription, path: this.#file, objectBytes: OBJECT_BYTES, known: null },
      snapshot: { number: 1, parent: null, lease: this.#lease },
      remember: async () => undefined,
      gate: new UploadGate({ look: async () => demand.isWaiting() }),
      line: new LineMeter(),
      nowMs: () => performance.now(),
      signal: ending.signal,
      onPart: (sent) => {
        sentBytes = sent;
      },
    }).then(
      () => new Error('the object was too short'),
      (error: unknown) => (ending.signal.aborted ? undefined : error),
    );
    return {
      sentBytes: () => sentBytes,
      stop: async () => {
        ending.abort();
        const failed = await uploading;
        await client.close();
        if (failed !== undefined) throw new Error('the upload has ended', { cause: failed });
      },
    };
  }
}
