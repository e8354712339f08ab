/** The object of a boot trace, by HTTP Range (docs/formats/trace.md). An object under its name never changes; whoever asks for one that is gone asks for the chunks. */
import { type FastifyInstance } from 'fastify';
import { CollectiveError, ROUTES } from '@collective/shared';
import { bootObjectName } from '../storage/blob-names.js';
import { publishedDisk } from './reading-routes.js';
import { admitRoute, checkedParams, type RouteContext } from './register-route.js';
import { rangeOf } from './snapshot-data-route.js';

export const registerBootObjectRoute = (app: FastifyInstance, context: RouteContext): void => {
  const { repository, bodies } = context;
  const route = ROUTES.bootObject;
  const paramsOf = checkedParams('bootObject');
  app.route({
    method: 'GET',
    url: route.path,
    bodyLimit: 1,
    onRequest: async (request, reply) => admitRoute(context, route, request, reply),
    handler: async (request, reply) => {
      const { name, version, disk, object } = paramsOf(request.params);
      if (request.caller === undefined) throw new CollectiveError('not-logged-in');
      await publishedDisk(repository, request.caller, { name, version, disk });
      const file = await repository.blobStore.open(bootObjectName(name, version, disk, object));
      if (file === undefined)
        throw new CollectiveError('not-found', `The boots of ${name}@${version} are packed otherwise`);
      try {
        const part = rangeOf(request.headers.range, file.byteLength);
        bodies.reserve(reply.raw, part.byteLength);
        const bytes = await file.read(part.byteOffset, part.byteLength);
        const last = part.byteOffset + part.byteLength - 1;
        reply.headers({ 'accept-ranges': 'bytes', 'cache-control': 'private, max-age=31536000, immutable' });
        reply.type('application/octet-stream');
        if (part.byteLength < file.byteLength)
          reply.code(206).header('content-range', `bytes ${part.byteOffset}-${last}/${file.byteLength}`);
        return await reply.send(bytes);
      } finally {
        await file.close();
      }
    },
  });
};
