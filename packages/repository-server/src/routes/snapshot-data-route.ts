/**
 * The object of a snapshot, by HTTP Range (docs/formats/snapshot-object.md). One answer has at most 4 MiB: of a longer
 * range the beginning, as RFC 9110 allows (15.3.7), and `content-range` says which part it is. The ETag is the digest of
 * the object's index: retention may rewrite an object, and a reader that goes on with `if-match` learns that by
 * `conflict` instead of getting a part of another file.
 */
import { type FastifyInstance } from 'fastify';
import {
  CollectiveError,
  digestFromBytes,
  decodeSnapshotFooter,
  ROUTES,
  SNAPSHOT_FOOTER_BYTES,
  SNAPSHOT_PART_BYTES_MAX,
} from '@collective/shared';
import { type Caller } from '../caller.js';
import { type Repository } from '../repository/repository.js';
import { anySubscription } from '../repository/subscriptions.js';
import { snapshotDataName } from '../storage/blob-names.js';
import { admitRoute, checkedParams, type RouteContext } from './register-route.js';
import { own } from './subscription-routes.js';

const RANGE = /^bytes=([0-9]{1,15})?-([0-9]{1,15})?$/;

export type ByteRange = { readonly byteOffset: number; readonly byteLength: number };

export const registerSnapshotDataRoute = (app: FastifyInstance, context: RouteContext): void => {
  const route = ROUTES.snapshotData;
  const paramsOf = checkedParams('snapshotData');
  app.route({
    method: 'GET',
    url: route.path,
    bodyLimit: 1,
    onRequest: async (request, reply) => admitRoute(context, route, request, reply),
    handler: async (request, reply) => {
      const { range: asked, 'if-match': ifMatch } = request.headers;
      const { objectBytes, etag, part, bytes } = await readPart(context.repository, request.caller, {
        ...paramsOf(request.params),
        asked,
        ifMatch,
        reserve: (byteLength) => context.bodies.reserve(reply.raw, byteLength),
      });
      reply.headers({ etag, 'accept-ranges': 'bytes', 'cache-control': 'private, no-store' });
      reply.type('application/octet-stream');
      if (part.byteLength < objectBytes) {
        const last = part.byteOffset + part.byteLength - 1;
        reply.code(206).header('content-range', `bytes ${part.byteOffset}-${last}/${objectBytes}`);
      }
      return reply.send(bytes);
    },
  });
};

type Asked = {
  readonly subscription: string;
  readonly number: number;
  readonly asked: string | undefined;
  readonly ifMatch: string | undefined;
  /** Throws when too much is in memory already. */
  readonly reserve: (byteLength: number) => void;
};

/** Everything from one open file: another one may take its name meanwhile. Errors: `not-found`, `conflict`, `bad-request`, `rate-limited`. */
const readPart = async (
  repository: Repository,
  caller: Caller | undefined,
  of: Asked,
): Promise<{ objectBytes: number; etag: string; part: ByteRange; bytes: Buffer }> => {
  if (caller === undefined) throw new CollectiveError('not-logged-in');
  const record = await anySubscription(repository, own(caller, of));
  const snapshot = await repository.catalogue.subscriptions.snapshot(record, of.number);
  const isThere = snapshot !== undefined && snapshot.state !== 'pending';
  const file = isThere ? await repository.blobStore.open(snapshotDataName(record, of.number)) : undefined;
  if (file === undefined) throw new CollectiveError('not-found', `Snapshot ${of.number} has no object`);
  try {
    const objectBytes = file.byteLength;
    const footer = await file.read(Math.max(0, objectBytes - SNAPSHOT_FOOTER_BYTES), SNAPSHOT_FOOTER_BYTES);
    const etag = `"${digestFromBytes(decodeSnapshotFooter(footer, objectBytes).indexDigest)}"`;
    if (of.ifMatch !== undefined && of.ifMatch !== etag)
      throw new CollectiveError(
        'conflict',
        `The object of snapshot ${of.number} has been rewritten: read its index again`,
      );
    const part = rangeOf(of.asked, objectBytes);
    of.reserve(part.byteLength);
    return { objectBytes, etag, part, bytes: await file.read(part.byteOffset, part.byteLength) };
  } finally {
    await file.close();
  }
};

/** The part that is answered. Errors: `bad-request` (data: objectBytes) for no or another range than one that lies inside. */
export const rangeOf = (asked: string | undefined, objectBytes: number): ByteRange => {
  const [, first, last] = RANGE.exec(asked ?? 'bytes=0-') ?? [];
  const isSuffix = first === undefined;
  const byteOffset = isSuffix ? Math.max(0, objectBytes - Number(last ?? 0)) : Number(first);
  const end = isSuffix || last === undefined ? objectBytes : Math.min(objectBytes, Number(last) + 1);
  const byteLength = Math.min(end - byteOffset, SNAPSHOT_PART_BYTES_MAX);
  if (asked === undefined && byteLength < objectBytes)
    throw outside(`The object has ${objectBytes} bytes: ask for it by ranges`, objectBytes);
  if (byteLength < 1) throw outside(`There is no range ${asked ?? ''} of ${objectBytes} bytes`, objectBytes);
  return { byteOffset, byteLength };
};

const outside = (message: string, objectBytes: number): CollectiveError =>
  new CollectiveError('bad-request', message, { data: { objectBytes } });
