/**
 * The currencies that a price may have: those of ISO 4217 with a minor unit, because amounts are in it. Gold, funds'
 * units of account and the codes for tests and for no currency have none.
 */
import * as iso4217 from 'dinero.js/currencies'

/** In upper or lower case, as Stripe accepts it. */
export const isCurrency = (code: string) => Object.hasOwn(iso4217, code.toUpperCase())

export const sameCurrency = (a: string, b: string) => a.toUpperCase() === b.toUpperCase()
