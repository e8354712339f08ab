/**
 * A small publishing client of the repository server's own tests, over undici: no cache, no retry, no cleverness, so
 * that what a test sees is what the server did.
 */
import { randomBytes } from 'node:crypto';
import {
  deviceLoginMessage,
  type Digest,
  DiskMap,
  encodeChangedPairs,
  encodeChunk,
  encodeChunkBatch,
  keyId,
  newPasswordParameters,
  newSigningKeySeed,
  parseJoinLink,
  publishingKeyMessage,
  type RouteName,
  ROUTES,
  routePath,
  sha256,
  signDeviceCertificate,
  type SigningKey,
  signingKeyFromSeed,
} from '@collective/shared';
import { signManifest, systemManifest } from '@collective/repository-server';
import { Pool } from 'undici';

export const BLOCK_BYTES = 65_536;
const BATCH_CHUNKS = 16;

export type Reply = {
  readonly status: number;
  readonly body: Buffer;
  readonly json: Readonly<Record<string, unknown>>;
};

type Options = {
  readonly params?: Readonly<Record<string, string | number>>;
  readonly query?: Readonly<Record<string, string | number>>;
  readonly body?: unknown;
};

/** A block that says which it is; half of it compresses. */
export const blockOf = (seed: number): Buffer => {
  const block = Buffer.alloc(BLOCK_BYTES);
  let word = (seed * 2_654_435_761) >>> 0;
  for (let at = 0; at < BLOCK_BYTES / 2; at += 4) {
    word = (Math.imul(word, 1_664_525) + 1_013_904_223) >>> 0;
    block.writeUInt32LE(word, at);
  }
  block.writeUInt32LE(seed, BLOCK_BYTES - 4);
  return block;
};

export const mapOf = (seeds: readonly number[]): DiskMap => {
  const map = DiskMap.empty({ diskBytes: seeds.length * BLOCK_BYTES, blockBytes: BLOCK_BYTES });
  seeds.forEach((seed, index) => map.set(index, { kind: 'public', digest: sha256(blockOf(seed)) }));
  return map;
};

export type Head = { readonly version: number; readonly manifest: Digest };

export class ServerClient {
  readonly account: string;
  #pool: Pool;
  readonly #publishing: SigningKey;
  #token = '';

  private constructor(account: string, origin: string, publishing: SigningKey) {
    this.account = account;
    this.#pool = new Pool(origin, { connections: 4, headersTimeout: 60_000, bodyTimeout: 60_000 });
    this.#publishing = publishing;
  }

  /** Accepts the invitation, registers a device and a publishing key, logs in. */
  static async join(joinLink: string, account: string): Promise<ServerClient> {
    const { origin, identity, invite } = parseJoinLink(joinLink);
    const client = new ServerClient(account, origin, newKey());
    const person = newKey();
    const device = newKey();
    const loginSecret = randomBytes(32).toString('base64url');
    const keys = {
      format: 1,
      identityKey: person.publicKey,
      byPassword: randomBytes(72).toString('base64url'),
      byRecoveryCode: null,
    };
    await client.expect(200, 'acceptInvitation', {
      body: {
        token: invite,
        account,
        passwordParameters: newPasswordParameters(),
        loginSecret,
        keys,
        recoverySecret: null,
      },
    });
    const enrolled = await client.expect(200, 'loginPassword', { body: { account, loginSecret } });
    client.#token = String(enrolled.json['token']);
    const certificate = signDeviceCertificate(
      { format: 1, account, repository: identity, deviceKey: device.publicKey, deviceName: 'test', createdAt: 0 },
      person,
    );
    await client.expect(200, 'registerDevice', { body: { certificate: certificate.toString('base64') } });
    const id = keyId(device.publicKey);
    const { json } = await client.expect(200, 'loginChallenge', { body: { device: id } });
    const nonce = String(json['nonce']);
    const message = deviceLoginMessage({ identity, device: id, nonce: Buffer.from(nonce, 'base64url') });
    const signature = device.sign(message).toString('base64url');
    const session = await client.expect(200, 'loginDevice', { body: { device: id, nonce, signature } });
    client.#token = String(session.json['token']);
    const proof = client.#publishing.sign(publishingKeyMessage({ identity, account })).toString('base64url');
    await client.expect(200, 'setPublishingKey', { body: { key: client.#publishing.publicKey, proof } });
    return client;
  }

  /** Of its session, for other clients of the same person. */
  get token(): string {
    return this.#token;
  }

  async request(name: RouteName, { params, query, body }: Options = {}): Promise<Reply> {
    const isBytes = body instanceof Uint8Array;
    const response = await this.#pool.request({
      method: ROUTES[name].method,
      path: routePath(name, params, query),
      headers: {
        ...(this.#token === '' ? {} : { authorization: `Bearer ${this.#token}` }),
        ...(body === undefined ? {} : { 'content-type': isBytes ? 'application/octet-stream' : 'application/json' }),
      },
      body: body === undefined ? null : isBytes ? Buffer.from(body) : JSON.stringify(body),
    });
    const bytes = Buffer.from(await response.body.arrayBuffer());
    const isJson = String(response.headers['content-type']).startsWith('application/json');
    const json: unknown = isJson ? JSON.parse(bytes.toString('utf8')) : {};
    return { status: response.statusCode, body: bytes, json: json as Readonly<Record<string, unknown>> };
  }

  async expect(status: number, name: RouteName, options: Options = {}): Promise<Reply> {
    const reply = await this.request(name, options);
    if (reply.status !== status)
      throw new Error(`${name}: ${reply.status} instead of ${status}: ${reply.body.toString('utf8')}`);
    return reply;
  }

  async head(appliance: string): Promise<Head | null> {
    const reply = await this.request('versions', { params: { name: appliance } });
    if (reply.status === 404) return null;
    const versions = JSON.parse(reply.body.toString('utf8')) as Head[];
    const last = versions.at(-1);
    return last === undefined ? null : { version: last.version, manifest: last.manifest };
  }

  manifest(appliance: string, version: number, parent: Head | null, seeds: readonly number[]): Buffer {
    const disk = {
      diskBytes: seeds.length * BLOCK_BYTES,
      blockBytes: BLOCK_BYTES,
      root: mapOf(seeds).build().root,
    };
    const title = `${appliance} ${version}`;
    return signManifest(systemManifest({ appliance, version, parent, title, disk }), this.#publishing);
  }

  /** Everything before the commit: session, lacking chunks, disk. `onStep` is called before each request. */
  async upload(
    appliance: string,
    parent: Head | null,
    seeds: readonly number[],
    onStep: (step: string) => void = () => undefined,
  ): Promise<string> {
    onStep('session');
    const opened = await this.expect(200, 'createUpload', {
      params: { name: appliance },
      body: { parent: parent?.version ?? null },
    });
    const upload = String(opened.json['upload']);
    await this.sendLacking(upload, seeds, onStep);
    onStep('disk');
    await this.sendDisk(upload, seeds);
    return upload;
  }

  async sendDisk(upload: string, seeds: readonly number[]): Promise<void> {
    await this.expect(200, 'uploadDisk', {
      params: { upload, disk: 'system' },
      query: { since: 'none' },
      body: encodeChangedPairs(mapOf(seeds).changesSince(undefined)),
    });
  }

  async sendLacking(
    upload: string,
    seeds: readonly number[],
    onStep: (step: string) => void = () => undefined,
  ): Promise<void> {
    const bySeed = new Map([...new Set(seeds)].map((seed) => [String(sha256(blockOf(seed))), seed]));
    onStep('lacking');
    const body = Buffer.from([...bySeed.keys()].join(''), 'hex');
    const { body: bytes } = await this.expect(200, 'lackingChunks', { params: { upload }, body });
    const lacking = bytes.toString('hex').match(/.{64}/g) ?? [];
    for (let at = 0; at < lacking.length; at += BATCH_CHUNKS) {
      const records = lacking.slice(at, at + BATCH_CHUNKS).map((digest) => ({
        digest: digest as Digest,
        chunk: encodeChunk(blockOf(bySeed.get(digest) ?? 0), { level: 1 }),
      }));
      onStep('chunks');
      await this.expect(200, 'uploadChunks', { params: { upload }, body: encodeChunkBatch(records) });
    }
  }

  commit(upload: string, manifest: Buffer): Promise<Reply> {
    return this.request('commitUpload', { params: { upload }, body: manifest });
  }

  /** The same session through another address, a link in front of the server. */
  async moveTo(origin: string): Promise<void> {
    await this.#pool.destroy();
    this.#pool = new Pool(origin, { connections: 4, headersTimeout: 60_000, bodyTimeout: 60_000 });
  }

  async close(): Promise<void> {
    await this.#pool.destroy();
  }
}

const newKey = (): SigningKey => signingKeyFromSeed(newSigningKeySeed());
