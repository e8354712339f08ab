/** A manifest file of a version, opened as the version that it is wanted to be. */
import {
  CollectiveError,
  PAYLOAD_TYPES,
  countValidSignatures,
  decodeVersionManifest,
  openEnvelope,
  publisherKeys,
  requireSignatures,
  type TrustFile,
  type VersionManifest,
} from '@collective/shared';

export type ExpectedManifest = { readonly appliance: string; readonly version: number; readonly mustBeSigned: boolean };
/** `isSigned`: by a key that may publish the appliance today. */
export type OpenedManifest = { readonly manifest: VersionManifest; readonly isSigned: boolean };

/** Errors: `untrusted`, `bad-signature`, and those of the formats. */
export function openVersionManifest(bytes: Buffer, expected: ExpectedManifest, trust: TrustFile): OpenedManifest {
  const { appliance, version } = expected;
  const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.version });
  const keys = publisherKeys(trust, appliance);
  const isSigned = countValidSignatures(envelope, keys).length > 0;
  if (expected.mustBeSigned && !isSigned) {
    const what = `${appliance}@${String(version)} is not signed by a key that trust file ${String(trust.number)} allows to publish it`;
    requireSignatures(envelope, keys, { threshold: 1, what });
  }
  const manifest = decodeVersionManifest(envelope.payload);
  if (manifest.appliance !== appliance || manifest.version !== version) {
    throw new CollectiveError(
      'untrusted',
      `The manifest of ${appliance}@${String(version)} says that it is ${manifest.appliance}@${String(manifest.version)}.`,
    );
  }
  return { manifest, isSigned };
}
