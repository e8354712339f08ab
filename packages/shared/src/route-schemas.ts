/**
 * The parts that several routes share: path parameters, small bodies, and the shape of an error.
 */
import { type Static, Type } from '@collective/schema';
import { type ErrorCode } from './errors.js';
import {
  byteCountField,
  digestField,
  diskNameField,
  nameField,
  numberField,
  secondsField,
  strictObject,
  textField,
  wordField,
} from './schema-fields.js';

export const ROLES = ['user', 'publisher', 'admin'] as const;
export type Role = (typeof ROLES)[number];
export const ACCESSES = ['use', 'publish'] as const;
export type Access = (typeof ACCESSES)[number];

/** An account's name follows the rule of appliance names. */
export const accountField = nameField;
export const roleField = wordField(...ROLES);
export const accessField = wordField(...ACCESSES);
/** An upload session's id: 128 random bits as hex. */
export const uploadField = Type.String({ pattern: '^[0-9a-f]{32}$' });
/** Standard base64 of an envelope file of at most 262,144 bytes. */
export const envelopeTextField = Type.String({ pattern: '^[A-Za-z0-9+/]{4,349528}={0,2}$' });

/** Standard base64 of a letter file. */
export const letterTextField = Type.String({ pattern: '^[A-Za-z0-9+/]{4,5464}={0,2}$' });

export const accountParams = strictObject({ account: accountField });
export const accountAccessParams = strictObject({ account: accountField, appliance: nameField });
export const applianceParams = strictObject({ name: nameField });
export const chunkParams = strictObject({ digest: digestField });
export const deviceParams = strictObject({ device: digestField });
export const diskParams = strictObject({ name: nameField, version: numberField, disk: diskNameField });
export const trustParams = strictObject({ number: numberField });
export const uploadParams = strictObject({ upload: uploadField });
export const uploadDiskParams = strictObject({ upload: uploadField, disk: diskNameField });
export const letterParams = strictObject({ name: nameField, version: numberField, account: accountField });
export const versionParams = strictObject({ name: nameField, version: numberField });

export const applianceAccess = strictObject({ name: nameField, access: accessField });
export const applianceAccessList = Type.Array(applianceAccess, { maxItems: 2_000 });

export const versionSummary = strictObject({
  version: numberField,
  createdAt: secondsField,
  title: textField({ max: 200 }),
  /** SHA-256 of the manifest file. */
  manifest: digestField,
  withdrawn: Type.Boolean(),
  /** Not promoted: for those who are named only. */
  candidate: Type.Boolean(),
  /** What its chunks and pages take in the repository, shared ones included. */
  bytes: byteCountField,
});

export const uploadState = strictObject({ upload: uploadField, expiresAt: secondsField });

/** What every status of 400 and above carries. */
export const errorBodySchema = Type.Object({
  code: Type.Unsafe<ErrorCode>(Type.String({ maxLength: 60 })),
  message: Type.String({ maxLength: 2_000 }),
  hint: Type.Optional(Type.String({ maxLength: 2_000 })),
  data: Type.Optional(Type.Record(Type.String(), Type.Union([Type.String(), Type.Number(), Type.Boolean()]))),
});
export type ErrorBody = Static<typeof errorBodySchema>;

/** An answer that says nothing but that it is done. */
export const nothing = strictObject({});
