/** The main program of the repository server of a BackupRig (repository-process.ts): files, SQLite, HTTP, and a clock that it is told. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { newSigningKeySeed, signingKeyFromSeed } from '@collective/shared';
import { FolderBlobStore, openSubscriber, SqliteCatalogue } from '@collective/repository-server';
import type { RepositoryAsked, RepositoryIs, RepositorySays } from './repository-process.js';

const folder = process.argv[2] ?? '';
const world = await openSubscriber({
  blobStore: await FolderBlobStore.open(folder),
  catalogue: await SqliteCatalogue.open({
    database: path.join(folder, 'catalogue.sqlite'),
    lock: path.join(folder, 'lock.sqlite'),
  }),
});
const { server, person, version } = world;
await server.app.ready();
const listener = createServer((request, response) => server.app.routing(request, response));
await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));

const seed = newSigningKeySeed();
const device = signingKeyFromSeed(seed);
const deviceId = await server.registerDevice({ ...person, device });
const is: RepositoryIs = {
  port: (listener.address() as AddressInfo).port,
  ...{ account: person.account, identity: server.repository.identity, personKey: person.identity.publicKey },
  ...{ seed: seed.toString('base64url'), deviceId, token: await server.deviceLogin(device), version },
};
const say = (message: RepositorySays): void => void process.send?.(message);

process.on('message', (message) => {
  const asked = message as RepositoryAsked;
  server.clock.advance(Math.max(0, asked.nowSeconds - server.clock.nowSeconds()));
  if (asked.kind === 'clock') say({ id: asked.id });
  else void server.deviceLogin(device).then((token) => say({ id: asked.id, token }));
});
process.on('disconnect', () => process.exit(0));
say({ is });
