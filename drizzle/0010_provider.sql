ALTER TABLE "charges" DROP CONSTRAINT "charges_status_check";--> statement-breakpoint
ALTER TABLE "outbox" DROP CONSTRAINT "outbox_about_check";--> statement-breakpoint
DROP INDEX "charges_effect";--> statement-breakpoint
DROP INDEX "charges_booking_effect";--> statement-breakpoint
DROP INDEX "charges_due";--> statement-breakpoint
ALTER TABLE "charges" ADD COLUMN "n" smallint DEFAULT 1 NOT NULL;--> statement-breakpoint
ALTER TABLE "charges" ADD COLUMN "at_provider" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "charges" ADD COLUMN "ask_at" timestamp with time zone;--> statement-breakpoint
CREATE UNIQUE INDEX "charges_provider" ON "charges" USING btree ("provider_id","purpose") WHERE provider_id IS NOT NULL;--> statement-breakpoint
CREATE INDEX "charges_ask" ON "charges" USING btree ("ask_at") WHERE status = 'captured' AND ask_at IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "charges_effect" ON "charges" USING btree ("purchase","purpose","n");--> statement-breakpoint
CREATE UNIQUE INDEX "charges_booking_effect" ON "charges" USING btree ("booking","purpose","n");--> statement-breakpoint
CREATE INDEX "charges_due" ON "charges" USING btree ("due_at") WHERE status IN ('pending', 'sent', 'authorized', 'capturing', 'failed') AND NOT at_provider;--> statement-breakpoint
ALTER TABLE "charges" ADD CONSTRAINT "charges_status_check" CHECK (CASE "charges"."purpose" WHEN 'charge' THEN "charges"."status" IN ('pending', 'sent', 'authorized', 'capturing', 'captured',
        'declined', 'unavailable', 'released', 'lost') WHEN 'refund' THEN "charges"."status" IN ('pending', 'refunded', 'released', 'failed')
        WHEN 'dispute' THEN "charges"."status" IN ('open', 'won', 'lost')
        ELSE false END);--> statement-breakpoint
ALTER TABLE "outbox" ADD CONSTRAINT "outbox_about_check" CHECK ("outbox"."about" IN ('purchase', 'booking', 'payment', 'resource'));
--> statement-breakpoint
-- What was captured so far is looked at within a day: a refund or a dispute that was never learned is found then.
UPDATE charges SET ask_at = clock_timestamp() + random() * interval '1 day' WHERE purpose = 'charge' AND status = 'captured';
--> statement-breakpoint
-- Outcomes never change, apart from what a bank changes: a refund that was done comes back, a lost dispute is won on
-- appeal. A refund of ours that failed, or had nothing to give back, can be asked for again.
DROP TRIGGER charges_terminal ON charges;
--> statement-breakpoint
CREATE TRIGGER charges_terminal BEFORE UPDATE OF status ON charges FOR EACH ROW
  WHEN (NEW.status IS DISTINCT FROM OLD.status
    AND (OLD.status IN ('captured', 'declined', 'unavailable', 'released', 'refunded', 'lost', 'won') OR NEW.status IN ('pending', 'open'))
    AND NOT (OLD.purpose = 'dispute' AND OLD.status = 'lost' AND NEW.status = 'won')
    AND NOT (OLD.purpose = 'refund' AND OLD.status = 'refunded' AND NEW.status = 'failed')
    AND NOT (OLD.purpose = 'refund' AND OLD.status IN ('failed', 'released') AND NEW.status = 'pending' AND NOT OLD.at_provider))
  EXECUTE FUNCTION holdfast_refuse();
--> statement-breakpoint
-- All refunds of a charge together, ours and those made at the provider, never exceed it. The charge's row lock makes
-- two that are written at the same time see each other.
CREATE OR REPLACE FUNCTION holdfast_refund_fits() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  charged bigint;
  given bigint;
BEGIN
  SELECT c.amount INTO charged FROM charges c
  WHERE (c.purchase = NEW.purchase OR c.booking = NEW.booking) AND c.purpose = 'charge' AND c.currency = NEW.currency
  ORDER BY c.n DESC LIMIT 1 FOR NO KEY UPDATE;
  SELECT coalesce(sum(r.amount), 0) INTO given FROM charges r
  WHERE (r.purchase = NEW.purchase OR r.booking = NEW.booking) AND r.purpose = 'refund' AND r.id <> NEW.id
    AND r.status IN ('pending', 'refunded');
  IF charged IS NULL OR given + NEW.amount > charged THEN
    RAISE EXCEPTION 'a refund of % exceeds what is left of its charge', NEW.amount
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$;
--> statement-breakpoint
DROP TRIGGER charges_refund_fits ON charges;
--> statement-breakpoint
CREATE TRIGGER charges_refund_fits BEFORE INSERT OR UPDATE OF amount, status ON charges FOR EACH ROW
  WHEN (NEW.purpose = 'refund' AND NEW.status IN ('pending', 'refunded'))
  EXECUTE FUNCTION holdfast_refund_fits();
--> statement-breakpoint
-- What happened to money at the provider is an event of each resource that was paid for. created_at is that of the
-- transaction: the same in the events of all resources of a cart.
CREATE FUNCTION holdfast_money_moved() RETURNS trigger LANGUAGE plpgsql
  SET enable_seqscan = on SET enable_nestloop = on AS $$
BEGIN
  WITH told AS (
    SELECT queue AS resource FROM purchases WHERE id = NEW.purchase
    UNION SELECT (l ->> 'resource') COLLATE "C" FROM purchases, jsonb_array_elements(lines) l WHERE id = NEW.purchase
    UNION SELECT resource FROM bookings WHERE id = NEW.booking
  ), head AS (
    INSERT INTO outbox_heads AS h (resource, last) SELECT resource, 1 FROM told ORDER BY resource
    ON CONFLICT (resource) DO UPDATE SET last = h.last + 1 RETURNING resource, last
  )
  INSERT INTO outbox (resource, about, last, subjects, statuses, reasons, delta, created_at)
  SELECT resource, 'payment', last, ARRAY[NEW.id],
         ARRAY[CASE WHEN NEW.purpose = 'charge' THEN 'lost' WHEN NEW.purpose = 'refund' AND NEW.status = 'failed' THEN 'refund_failed'
                    WHEN NEW.purpose = 'refund' THEN 'refunded' WHEN NEW.status = 'open' THEN 'dispute_opened'
                    ELSE 'dispute_' || NEW.status END],
         ARRAY[NEW.reason], NEW.amount, now() FROM head;
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER charges_came AFTER INSERT ON charges FOR EACH ROW
  WHEN (NEW.status IN ('refunded', 'failed', 'lost', 'open', 'won'))
  EXECUTE FUNCTION holdfast_money_moved();
--> statement-breakpoint
CREATE TRIGGER charges_moved AFTER UPDATE OF status ON charges FOR EACH ROW
  WHEN (NEW.status IS DISTINCT FROM OLD.status AND NEW.status IN ('refunded', 'failed', 'lost', 'won'))
  EXECUTE FUNCTION holdfast_money_moved();
