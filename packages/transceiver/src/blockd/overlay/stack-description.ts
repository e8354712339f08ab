/**
 * `overlay.json`: the layers of a disk from the bottom to the top (docs/formats/overlay.md). It is small, replaced as a
 * whole, and the only thing that says which layers count.
 */
import { CollectiveError } from '@collective/shared';
import { OVERLAY_LIMITS, SECTOR_BYTES } from './geometry.js';

export const DESCRIPTION_NAME = 'overlay.json';
const FORMAT = 1;
const LAYER_ID = /^[0-9a-f]{32}$/;

export type StackDescription = { readonly diskBytes: number; readonly layerIds: readonly string[] };

export const encodeStackDescription = (description: StackDescription): Buffer =>
  Buffer.from(
    `${JSON.stringify({ format: FORMAT, diskBytes: description.diskBytes, layers: description.layerIds })}\n`,
  );

/** Errors: `malformed`, `unknown-format`. */
export const decodeStackDescription = (bytes: Buffer): StackDescription => {
  const malformed = (what: string): CollectiveError => new CollectiveError('malformed', `${DESCRIPTION_NAME}: ${what}`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new CollectiveError('malformed', `${DESCRIPTION_NAME} is not JSON`, { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed('not an object');
  const fields = new Map<string, unknown>(Object.entries(value));
  if (fields.get('format') !== FORMAT)
    throw new CollectiveError('unknown-format', `${DESCRIPTION_NAME}: unknown format`);
  const diskBytes = fields.get('diskBytes');
  const layers = fields.get('layers');
  if (fields.size !== 3) throw malformed('unknown fields');
  if (typeof diskBytes !== 'number' || !Number.isSafeInteger(diskBytes))
    throw malformed('diskBytes is no whole number');
  if (diskBytes <= 0 || diskBytes > OVERLAY_LIMITS.diskBytesMax || diskBytes % SECTOR_BYTES !== 0) {
    throw malformed(`a disk of ${diskBytes} bytes`);
  }
  if (!Array.isArray(layers) || layers.length === 0 || layers.length > OVERLAY_LIMITS.layersMax)
    throw malformed('layers');
  const layerIds: string[] = [];
  for (const layerId of layers as readonly unknown[]) {
    if (typeof layerId !== 'string' || !LAYER_ID.test(layerId) || layerIds.includes(layerId))
      throw malformed('a layer id');
    layerIds.push(layerId);
  }
  return { diskBytes, layerIds };
};
