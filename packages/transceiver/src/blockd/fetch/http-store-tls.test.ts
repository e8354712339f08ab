/** Blocks come over TLS only from the server whose key is pinned. */
import { execFileSync } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { RANK } from '../block-store.js';
import { temporaryFolder } from '../testing/local-cache.js';
import { testDisk } from '../testing/test-disk.js';
import { requestFor } from '../testing/test-stores.js';
import { HttpStore } from './http-store.js';
import { LinkMeter } from './link-meter.js';

const disk = testDisk({ diskBytes: 65_536, blockBytes: 65_536 });
const [digest] = disk.blocks.keys();
let temporary: Awaited<ReturnType<typeof temporaryFolder>>;
let server: https.Server;
let requests = 0;
let pin = '';

beforeAll(async () => {
  temporary = await temporaryFolder();
  const key = path.join(temporary.folder, 'key.pem');
  const certificate = path.join(temporary.folder, 'certificate.pem');
  const words = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1'];
  execFileSync('openssl', [...words, '-subj', '/CN=nobody', '-keyout', key, '-out', certificate], { stdio: 'ignore' });
  const publicKey = new X509Certificate(readFileSync(certificate)).publicKey.export({ type: 'spki', format: 'der' });
  pin = createHash('sha256').update(publicKey).digest('base64url');
  server = https.createServer({ key: readFileSync(key), cert: readFileSync(certificate) }, (_, response) => {
    requests += 1;
    response.end(digest === undefined ? '' : disk.chunks.get(digest));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
afterAll(async () => {
  server.closeAllConnections();
  server.close();
  await temporary[Symbol.asyncDispose]();
});

const fetchOnce = async (repositoryPin: string | undefined): Promise<Buffer> => {
  const { port } = server.address() as AddressInfo;
  const meter = new LinkMeter(() => performance.now());
  const store = new HttpStore({ origin: `https://127.0.0.1:${port}`, pin: repositoryPin }, { meter });
  try {
    if (digest === undefined) throw new Error('the disk is empty');
    return await store.getChunk(requestFor(digest), { rank: RANK.demand });
  } finally {
    await store.close();
  }
};

it('fetches from the server that has the pinned key, whatever its certificate says', async () => {
  expect((await fetchOnce(pin)).length).toBeGreaterThan(48);
  expect(requests).toBe(1);
});

it('sends nothing to a server with another key', async () => {
  await expect(fetchOnce('A'.repeat(43))).rejects.toMatchObject({ code: 'wrong-server' });
  expect(requests).toBe(1);
});

it('sends nothing to a server that nobody vouches for when there is no pin', async () => {
  await expect(fetchOnce(undefined)).rejects.toMatchObject({ code: 'repository-unreachable' });
  expect(requests).toBe(1);
});
