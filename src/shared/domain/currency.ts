/**
 * The currencies that a price may have: the currencies of ISO 4217 with a minor unit, because amounts are stored in minor units.
 * Gold, funds' units of account, and the codes for tests and for no currency have no minor unit.
 */
import * as iso4217 from 'dinero.js/currencies'

/** Returns whether a price may have this currency. The code may be in upper or lower case, as for Stripe. */
export const isCurrency = (code: string) => Object.hasOwn(iso4217, code.toUpperCase())

export const sameCurrency = (a: string, b: string) => a.toUpperCase() === b.toUpperCase()
