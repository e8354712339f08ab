/**
 * What a hostile or broken repository shows, and what the agent makes of it. A lying server passes on everything of a real
 * one but one answer; some lies are signed with the real keys, because a server's heads key may be stolen.
 */
import { readFile, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import {
  PAYLOAD_TYPES,
  decodeHeads,
  decodeVersionManifest,
  derivePersonKeys,
  encodeHeads,
  newSigningKeySeed,
  openEnvelope,
  sha256,
  signEnvelope,
  signingKeyFromSeed,
  type Heads,
  type SigningKey,
} from '@collective/shared';
import { Person, repositoryCommand } from '../support/collective.js';
import { writeImage } from './disk-images.js';
import { homeHash } from './home-hash.js';
import { LyingServer } from './lying-server.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

let fixture: RepositoryFixture;
let liar: LyingServer;
let publisher: Person;
let user: Person;
let folder: string;
let headsKey: SigningKey;
let publishingKey: SigningKey;
/** Heads and manifests as the repository had them after each version. */
const headsAfter: Buffer[] = [];

const manifestPath = (version: number): string =>
  path.join(fixture.folder, 'appliances', 'demo', String(version), 'manifest');
const headsOf = (bytes: Buffer): Heads =>
  decodeHeads(openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.heads }).payload);
const signHeads = (heads: Heads, key = headsKey): Buffer =>
  signEnvelope({ payloadType: PAYLOAD_TYPES.heads, payload: encodeHeads(heads), signers: [key] });
const newest = (): Heads => headsOf(headsAfter.at(-1) ?? Buffer.alloc(0));

/** Asks the agent to verify and serve; whatever is wrong shows before anything is served. */
const tryVersion = (reference: string): ReturnType<Person['run']> =>
  user.run(['export', reference, '--socket', path.join(folder, 'export.sock'), '--json'], { timeoutMs: 180_000 });

const expectRefused = async (code: string, reference = 'demo'): Promise<string> => {
  const before = await homeHash(user.home);
  const error = errorOf(await tryVersion(reference));
  expect(error).toMatchObject({ code, exitCode: 8 });
  expect(await homeHash(user.home)).toBe(before);
  return error.message;
};

beforeAll(async () => {
  fixture = await RepositoryFixture.open();
  liar = await LyingServer.before(fixture.server.port);
  folder = await mkdtemp(path.join(os.tmpdir(), 'trust-'));
  publisher = await Person.temporary();
  user = await Person.temporary();
  await publisher.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'demo');
  for (const fill of [1, 2, 3]) {
    const file = path.join(folder, `${String(fill)}.raw`);
    await writeImage(file, 32, (index) => fill + index);
    await publisher.json(['publish', 'demo', '--disk', `system=${file}`, '--no-boot-test']);
    headsAfter.push(await readFile(path.join(fixture.folder, 'heads')));
  }
  headsKey = signingKeyFromSeed(
    Buffer.from((await readFile(path.join(fixture.folder, 'server', 'heads.key'), 'utf8')).trim(), 'base64url'),
  );
  const session = JSON.parse(await readFile(path.join(publisher.home, 'run', 'session.json'), 'utf8')) as {
    personSecret: string;
  };
  publishingKey = derivePersonKeys(Buffer.from(session.personSecret, 'base64url')).publishing(0);
  await user.login(liar.through(await fixture.server.invite('uma', 'user', { appliances: ['demo'] })), 'uma');
  await user.json(['appliances']);
});
beforeEach(() => {
  liar.lie('/v1/heads', undefined);
  liar.lie('/v1/appliances/demo/versions', undefined);
});
afterAll(async () => {
  await user[Symbol.asyncDispose]();
  await publisher[Symbol.asyncDispose]();
  await liar[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

it('heads that are older than seen are refused', async () => {
  liar.lie('/v1/heads', () => ({ body: headsAfter[0] ?? Buffer.alloc(0) }));
  await expectRefused('rollback');
});

it('other heads under a number that was seen are refused', async () => {
  liar.lie('/v1/heads', () => ({
    body: signHeads({ ...newest(), createdAt: newest().createdAt + 1, expiresAt: newest().expiresAt + 1 }),
  }));
  await expectRefused('rollback');
});

it('newer heads with a lower version than seen are refused', async () => {
  const old = headsOf(headsAfter[1] ?? Buffer.alloc(0)).heads;
  liar.lie('/v1/heads', () => ({ body: signHeads({ ...newest(), number: newest().number + 1, heads: old }) }));
  await expectRefused('rollback');
});

it('newer heads that name another manifest for a version that was seen are refused', async () => {
  const heads = newest().heads.map((head) => ({ ...head, manifest: sha256(Buffer.from('another')) }));
  liar.lie('/v1/heads', () => ({ body: signHeads({ ...newest(), number: newest().number + 1, heads }) }));
  await expectRefused('rollback');
});

it('heads signed by a key that the trust file does not name are refused', async () => {
  const stranger = signingKeyFromSeed(newSigningKeySeed());
  liar.lie('/v1/heads', () => ({ body: signHeads({ ...newest(), number: newest().number + 1 }, stranger) }));
  await expectRefused('untrusted');
});

it('heads that were changed after they were signed are refused', async () => {
  liar.lie('/v1/heads', (real) => {
    const file = JSON.parse(real.toString('utf8')) as { payload: string };
    const payload = Buffer.from(file.payload, 'base64')
      .toString('utf8')
      .replace(/"number":\d+/, '"number":999');
    return { body: JSON.stringify({ ...file, payload: Buffer.from(payload).toString('base64') }) };
  });
  await expectRefused('bad-signature');
});

it('heads that name a trust file that is held back are refused', async () => {
  liar.lie('/v1/heads', () => ({
    body: signHeads({ ...newest(), number: newest().number + 1, trust: newest().trust + 1 }),
  }));
  await expectRefused('rollback');
});

it('a manifest that heads do not name is refused', async () => {
  const older = await readFile(manifestPath(2));
  liar.lie('/v1/appliances/demo/versions/3/manifest', () => ({ body: older }));
  await expectRefused('untrusted');
  liar.lie('/v1/appliances/demo/versions/3/manifest', undefined);
});

/** A server whose heads key was stolen: it names and shows whatever it likes. Its lies must be caught at the manifest. */
const lieWithManifest = async (
  manifest: object,
  signer: SigningKey,
  change = (text: string): string => text,
): Promise<void> => {
  const signed = signEnvelope({
    payloadType: PAYLOAD_TYPES.version,
    payload: Buffer.from(JSON.stringify(manifest)),
    signers: [signer],
  });
  const file = JSON.parse(signed.toString('utf8')) as { payload: string };
  const payload = Buffer.from(change(Buffer.from(file.payload, 'base64').toString('utf8'))).toString('base64');
  const bytes = Buffer.from(JSON.stringify({ ...file, payload }));
  const version = 4;
  const heads = newest().heads.map((head) => ({ ...head, version, manifest: sha256(bytes) }));
  liar.lie('/v1/heads', () => ({ body: signHeads({ ...newest(), number: newest().number + 1, heads }) }));
  liar.lie(`/v1/appliances/demo/versions/${String(version)}/manifest`, () => ({ body: bytes }));
};
const nextManifest = async (): Promise<Record<string, unknown>> => {
  const bytes = await readFile(manifestPath(3));
  const manifest = decodeVersionManifest(openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.version }).payload);
  return { ...manifest, version: 4, parent: { version: 3, manifest: sha256(bytes) } };
};

it('a manifest by a key that may not publish the appliance is refused', async () => {
  // Each of these tests has a user of its own: stolen heads keys are believed about numbers, so what was seen changes.
  await withFreshUser(async () => {
    await lieWithManifest(await nextManifest(), signingKeyFromSeed(newSigningKeySeed()));
    const error = errorOf(await tryVersion('demo'));
    expect(error).toMatchObject({ code: 'untrusted', exitCode: 8 });
    expect(error.message).toContain('not signed by a key');
  });
});

it('a signed manifest with a hostile machine description is refused', async () => {
  await withFreshUser(async () => {
    const manifest = await nextManifest();
    const machine = { ...(manifest['machine'] as object), firmware: '/home/person/secret' };
    await lieWithManifest({ ...manifest, machine }, publishingKey);
    expect(errorOf(await tryVersion('demo'))).toMatchObject({ code: 'bad-machine', exitCode: 9 });
  });
});

it('a manifest that was changed after it was signed is refused', async () => {
  await withFreshUser(async () => {
    await lieWithManifest(await nextManifest(), publishingKey, (text) => text.replace('"title":"', '"title":"x'));
    expect(errorOf(await tryVersion('demo'))).toMatchObject({ code: 'bad-signature', exitCode: 8 });
  });
});

it('a signed manifest of another appliance is refused', async () => {
  await withFreshUser(async () => {
    await lieWithManifest({ ...(await nextManifest()), appliance: 'other' }, publishingKey);
    expect(errorOf(await tryVersion('demo'))).toMatchObject({ code: 'untrusted', exitCode: 8 });
  });
});

it('an older version is reached by its number, with a warning; one that never was is not found', async () => {
  const child = user.spawn(['export', 'demo@1', '--socket', path.join(folder, 'old.sock')]);
  await child.waitFor(/not the newest version/);
  await child.waitFor(/Serving disk system of demo@1/);
  await child.stop('SIGINT');
  expect(errorOf(await tryVersion('demo@7'))).toMatchObject({ code: 'not-found', exitCode: 5 });
});

it('a revoked key signs nothing any more: the newest version is refused, an older one starts by name with a warning', async () => {
  await repositoryCommand(['trust', 'revoke', fixture.folder, publishingKey.publicKey]);
  const error = errorOf(await tryVersion('demo'));
  expect(error).toMatchObject({ code: 'untrusted', exitCode: 8 });
  // demo@1 was verified by an earlier test.
  const child = user.spawn(['export', 'demo@1', '--socket', path.join(folder, 'old.sock')]);
  await child.waitFor(/may no longer publish it/);
  await child.waitFor(/Serving disk system of demo@1/);
  await child.stop('SIGINT');
  await withFreshUser(async () => {
    // Nothing was ever verified here, and the chain begins at a manifest that nobody may have signed.
    expect(errorOf(await tryVersion('demo@1'))).toMatchObject({ code: 'untrusted', exitCode: 8 });
  });
  const publish = await publisher.run([
    'publish',
    'demo',
    '--disk',
    `system=${path.join(folder, '1.raw')}`,
    '--no-boot-test',
    '--json',
  ]);
  expect(errorOf(publish)).toMatchObject({ code: 'not-allowed', exitCode: 4 });
});

async function withFreshUser(act: () => Promise<void>): Promise<void> {
  const kept = user;
  user = await Person.temporary();
  try {
    const name = `u${String(Date.now() % 1_000_000)}`;
    await user.login(liar.through(await fixture.server.invite(name, 'user', { appliances: ['demo'] })), name);
    await act();
  } finally {
    await user[Symbol.asyncDispose]();
    user = kept;
  }
}
