/** The agent's calls about a person's keys: password, recovery code, devices, and what a reset has locked. */
import type {
  DevicesReply,
  PasswordReply,
  PasswordRequest,
  RecoveryCodeConfirmRequest,
  RecoveryCodeReply,
  RevokeReply,
  RevokeRequest,
  UnlockReply,
  UnlockRequest,
} from './agent-types.js';
import { changePassword, changeRecoveryCode } from './change-keys.js';
import type { OfferedCodes } from './offered-code.js';
import { listDevices, revokeDevice } from './person-devices.js';
import type { Session } from './session.js';
import { unlock } from './unlock.js';

export interface KeysCalls {
  changePassword(request: PasswordRequest): Promise<PasswordReply>;
  newRecoveryCode(): Promise<RecoveryCodeReply>;
  confirmRecoveryCode(request: RecoveryCodeConfirmRequest): Promise<void>;
  devices(): Promise<DevicesReply>;
  revokeDevice(request: RevokeRequest): Promise<RevokeReply>;
  unlock(request: UnlockRequest): Promise<UnlockReply>;
}

export type DeskOptions = {
  readonly offers: OfferedCodes;
  /** Runs `work` with the session, after what the agent is doing and before what it does next. Errors: `not-logged-in`. */
  readonly inTurn: <T>(work: (session: Session) => Promise<T>) => Promise<T>;
};

export class KeysDesk implements KeysCalls {
  readonly #options: DeskOptions;

  constructor(options: DeskOptions) {
    this.#options = options;
  }

  async changePassword(request: PasswordRequest): Promise<PasswordReply> {
    return this.#options.inTurn(async (session) => {
      await changePassword(session, request);
      return { epoch: session.epoch };
    });
  }

  async newRecoveryCode(): Promise<RecoveryCodeReply> {
    return this.#options.inTurn(async ({ keys }) => ({ recoveryCode: this.#options.offers.offer(keys.account) }));
  }

  async confirmRecoveryCode({ lastGroup }: RecoveryCodeConfirmRequest): Promise<void> {
    const { offers } = this.#options;
    await this.#options.inTurn(async (session) => {
      const { account } = session.keys;
      await changeRecoveryCode(session, offers.confirmed(account, lastGroup));
      offers.forget(account);
    });
  }

  async devices(): Promise<DevicesReply> {
    return this.#options.inTurn(listDevices);
  }

  async revokeDevice({ device }: RevokeRequest): Promise<RevokeReply> {
    return this.#options.inTurn(async (session) => revokeDevice(session, device));
  }

  async unlock(request: UnlockRequest): Promise<UnlockReply> {
    return this.#options.inTurn(async (session) => unlock(session, request));
  }
}
