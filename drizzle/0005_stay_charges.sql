ALTER TABLE "charges" ALTER COLUMN "purchase" DROP NOT NULL;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "replaces" uuid;--> statement-breakpoint
ALTER TABLE "charges" ADD COLUMN "booking" uuid;--> statement-breakpoint
ALTER TABLE "charges" ADD CONSTRAINT "charges_booking_bookings_id_fk" FOREIGN KEY ("booking") REFERENCES "public"."bookings"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "bookings_replaces" ON "bookings" USING btree ("replaces") WHERE replaces IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "charges_booking_effect" ON "charges" USING btree ("booking","purpose");--> statement-breakpoint
ALTER TABLE "charges" ADD CONSTRAINT "charges_subject_check" CHECK (num_nonnulls("charges"."purchase", "charges"."booking") = 1);--> statement-breakpoint
-- What can be paid for by card, as far as its payment has to know it. `open`: set aside, by the clock, and not given up.
CREATE VIEW payable AS
  SELECT id, id AS purchase, NULL::uuid AS booking, queue, payment ->> 'token' AS token,
         status = 'held' AND expires_at > clock_timestamp() AS open
  FROM purchases
  UNION ALL
  SELECT id, NULL, id, resource, payment ->> 'token', status = 'requested' AND expires_at > clock_timestamp()
  FROM bookings;
--> statement-breakpoint
-- A refund is of a charge that there is, and never of more than it: now of bookings too.
CREATE OR REPLACE FUNCTION holdfast_refund_fits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM charges c WHERE (c.purchase = NEW.purchase OR c.booking = NEW.booking)
                 AND c.purpose = 'charge' AND c.amount >= NEW.amount AND c.currency = NEW.currency) THEN
    RAISE EXCEPTION 'a refund of % exceeds its charge', NEW.amount USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$;
