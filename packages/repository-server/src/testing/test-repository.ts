/**
 * A repository in memory with its application, root keys and a clock that a test moves, and requests against it without
 * a socket. Everything but the seams is the real code.
 */
import { randomBytes } from 'node:crypto';
import {
  deviceLoginMessage,
  type Digest,
  encodeTrustFile,
  keyId,
  type KeysFile,
  newPasswordParameters,
  newSigningKeySeed,
  PAYLOAD_TYPES,
  publishingKeyMessage,
  type Role,
  type RouteName,
  ROUTES,
  routePath,
  signDeviceCertificate,
  signEnvelope,
  type SigningKey,
  signingKeyFromSeed,
  type TrustFile,
} from '@collective/shared';
import { type FastifyInstance } from 'fastify';
import { buildApp } from '../app.js';
import { type ApplianceAccess, type Catalogue } from '../catalogue/catalogue.js';
import { DEFAULT_LIMITS, type Limits } from '../limits.js';
import { inviteAccount } from '../repository/invite-account.js';
import { type Repository, type RepositoryParts } from '../repository/repository.js';
import { trustName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { MemoryBlobStore } from './memory-blob-store.js';
import { MemoryCatalogue } from './memory-catalogue.js';
import { TestClock } from './test-clock.js';

export type TestReply = {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: Buffer;
  /** The body as JSON; anything, because tests look into it. */
  json(): Record<string, unknown>;
};

export type TestRequest = {
  readonly params?: Readonly<Record<string, string | number>>;
  readonly query?: Readonly<Record<string, string | number>>;
  readonly token?: string | undefined;
  /** Bytes go as octet-stream, everything else as JSON. */
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE';
  readonly address?: string;
};

export type TestPerson = {
  readonly account: string;
  readonly loginSecret: string;
  /** Of its recovery code. */
  readonly recoverySecret: string;
  readonly identity: SigningKey;
  readonly device: SigningKey;
  readonly deviceId: Digest;
  readonly publishing: SigningKey;
  /** A session token. */
  readonly token: string;
};

export class TestRepository {
  readonly app: FastifyInstance;
  readonly repository: Repository;
  readonly clock: TestClock;
  readonly #rootKeys: readonly SigningKey[];

  private constructor(app: FastifyInstance, repository: Repository, clock: TestClock, rootKeys: readonly SigningKey[]) {
    this.app = app;
    this.repository = repository;
    this.clock = clock;
    this.#rootKeys = rootKeys;
  }

  static async open(
    options: {
      readonly limits?: Partial<Limits>;
      readonly blobStore?: BlobStore;
      readonly catalogue?: Catalogue;
      readonly readRetention?: RepositoryParts['readRetention'];
      readonly proxyAddress?: string;
    } = {},
  ): Promise<TestRepository> {
    const clock = new TestClock();
    const blobStore = options.blobStore ?? new MemoryBlobStore(() => clock.nowSeconds() * 1_000);
    const catalogue = options.catalogue ?? new MemoryCatalogue();
    const rootKeys = [newKey(), newKey(), newKey()];
    const heads = newKey();
    const first: TrustFile = {
      format: 1,
      number: 1,
      createdAt: clock.nowSeconds(),
      rootKeys: rootKeys.map(({ publicKey }) => publicKey),
      rootThreshold: 2,
      headsKeys: [heads.publicKey],
      publishers: [],
      recount: [],
    };
    await blobStore.create(trustName(1), signTrust(first, rootKeys));
    const { app, repository } = await buildApp({
      blobStore,
      catalogue,
      keys: { heads, nameSecret: randomBytes(32) },
      limits: { ...DEFAULT_LIMITS, ...options.limits },
      clock,
      ...(options.readRetention === undefined ? {} : { readRetention: options.readRetention }),
      ...(options.proxyAddress === undefined ? {} : { proxyAddress: options.proxyAddress }),
    });
    return new TestRepository(app, repository, clock, rootKeys);
  }

  async request(name: RouteName, request: TestRequest = {}): Promise<TestReply> {
    const isBytes = request.body instanceof Uint8Array;
    const response = await this.app.inject({
      method: request.method ?? ROUTES[name].method,
      url: routePath(name, request.params, request.query),
      remoteAddress: request.address ?? '192.0.2.1',
      headers: {
        ...(request.token === undefined ? {} : { authorization: `Bearer ${request.token}` }),
        ...(request.body === undefined
          ? {}
          : { 'content-type': isBytes ? 'application/octet-stream' : 'application/json' }),
        ...request.headers,
      },
      ...(request.body === undefined
        ? {}
        : { payload: isBytes ? Buffer.from(request.body as Uint8Array) : JSON.stringify(request.body) }),
    });
    return {
      status: response.statusCode,
      headers: response.headers,
      body: response.rawPayload,
      json: () => response.json(),
    };
  }

  /** Signs the next trust file, and the heads that name it. */
  async changeTrust(change: Partial<TrustFile>): Promise<void> {
    const old = await this.repository.trust.current();
    const next = { ...old, ...change, number: old.number + 1 };
    await this.repository.blobStore.create(trustName(next.number), signTrust(next, this.#rootKeys));
    await this.repository.heads.refresh();
  }

  async allow(person: TestPerson, ...appliances: string[]): Promise<void> {
    const { publishers } = await this.repository.trust.current();
    const entry = { name: person.account, key: person.publishing.publicKey, appliances };
    await this.changeTrust({ publishers: [...publishers.filter(({ key }) => key !== entry.key), entry] });
  }

  /** Invitation, account, device, session and publishing key: everything through the routes. */
  async join(account: string, role: Role, appliances: readonly ApplianceAccess[] = []): Promise<TestPerson> {
    const { catalogue, clock, identity: repository } = this.repository;
    const times = { now: clock.nowSeconds(), seconds: 600 };
    const { token: invitation } = await inviteAccount(catalogue, { account, role, appliances }, times);
    const [loginSecret, recoverySecret] = [randomBytes(32), randomBytes(32)].map((bytes) =>
      bytes.toString('base64url'),
    ) as [string, string];
    const identity = newKey();
    const accepted = await this.request('acceptInvitation', {
      body: {
        token: invitation,
        account,
        passwordParameters: newPasswordParameters(),
        loginSecret,
        keys: { ...keysFileOf(identity), byRecoveryCode: randomBytes(72).toString('base64url') },
        recoverySecret,
      },
    });
    expectStatus(accepted, 200);
    const device = newKey();
    const deviceId = await this.registerDevice({ account, loginSecret, identity, device });
    const token = await this.deviceLogin(device);
    const publishing = newKey();
    if (role !== 'user') {
      const proof = publishing.sign(publishingKeyMessage({ identity: repository, account })).toString('base64url');
      const set = await this.request('setPublishingKey', { token, body: { key: publishing.publicKey, proof } });
      expectStatus(set, 200);
    }
    return { account, loginSecret, recoverySecret, identity, device, deviceId, publishing, token };
  }

  async registerDevice(person: Pick<TestPerson, 'account' | 'loginSecret' | 'identity' | 'device'>): Promise<Digest> {
    const { account, loginSecret, identity, device } = person;
    const enrolled = await this.request('loginPassword', { body: { account, loginSecret } });
    expectStatus(enrolled, 200);
    const certificate = this.certificate({ account, identity, device });
    const registered = await this.request('registerDevice', {
      token: String(enrolled.json()['token']),
      body: { certificate: certificate.toString('base64') },
    });
    expectStatus(registered, 200);
    return keyId(device.publicKey);
  }

  certificate(person: {
    readonly account: string;
    readonly identity: SigningKey;
    readonly device: SigningKey;
  }): Buffer {
    const certificate = {
      format: 1,
      account: person.account,
      repository: this.repository.identity,
      deviceKey: person.device.publicKey,
      deviceName: 'test device',
      createdAt: this.clock.nowSeconds(),
    } as const;
    return signDeviceCertificate(certificate, person.identity);
  }

  async tryDeviceLogin(device: SigningKey): Promise<TestReply> {
    const id = keyId(device.publicKey);
    const challenge = await this.request('loginChallenge', { body: { device: id } });
    const nonce = String(challenge.json()['nonce']);
    const message = deviceLoginMessage({
      identity: this.repository.identity,
      device: id,
      nonce: Buffer.from(nonce, 'base64url'),
    });
    const signature = device.sign(message).toString('base64url');
    return this.request('loginDevice', { body: { device: id, nonce, signature } });
  }

  async deviceLogin(device: SigningKey): Promise<string> {
    const reply = await this.tryDeviceLogin(device);
    expectStatus(reply, 200);
    return String(reply.json()['token']);
  }

  async close(): Promise<void> {
    await this.app.close();
    await this.repository.catalogue.close();
  }
}

export const newKey = (): SigningKey => signingKeyFromSeed(newSigningKeySeed());

export const keysFileOf = (identity: SigningKey): KeysFile => ({
  format: 1,
  identityKey: identity.publicKey,
  byPassword: randomBytes(72).toString('base64url'),
  byRecoveryCode: null,
});

const signTrust = (trust: TrustFile, signers: readonly SigningKey[]): Buffer =>
  signEnvelope({ payloadType: PAYLOAD_TYPES.trust, payload: encodeTrustFile(trust), signers });

const expectStatus = (reply: TestReply, status: number): void => {
  if (reply.status !== status)
    throw new Error(`expected ${status}, got ${reply.status}: ${reply.body.toString('utf8')}`);
};
