CREATE TABLE "customer_units" (
	"resource" text COLLATE "C" NOT NULL,
	"customer" text NOT NULL,
	"units" bigint NOT NULL,
	CONSTRAINT "customer_units_resource_customer_pk" PRIMARY KEY("resource","customer"),
	CONSTRAINT "customer_units_units_check" CHECK ("customer_units"."units" >= 0)
);
--> statement-breakpoint
ALTER TABLE "commands" DROP CONSTRAINT "commands_command_check";--> statement-breakpoint
ALTER TABLE "charges" ADD COLUMN "currency" text DEFAULT 'USD' NOT NULL;--> statement-breakpoint
ALTER TABLE "charges" ADD COLUMN "reason" text;--> statement-breakpoint
ALTER TABLE "charges" ADD COLUMN "due_at" timestamp with time zone DEFAULT clock_timestamp() + interval '2 seconds' NOT NULL;--> statement-breakpoint
ALTER TABLE "purchases" ADD COLUMN "replaces" uuid;--> statement-breakpoint
ALTER TABLE "resources" ADD COLUMN "max_per_customer" bigint;--> statement-breakpoint
ALTER TABLE "resources" ADD COLUMN "limited_at" timestamp with time zone;--> statement-breakpoint
CREATE INDEX "charges_due" ON "charges" USING btree ("due_at") WHERE status IN ('pending', 'sent', 'capturing');--> statement-breakpoint
CREATE UNIQUE INDEX "purchases_replaces" ON "purchases" USING btree ("replaces") WHERE replaces IS NOT NULL;--> statement-breakpoint
ALTER TABLE "charges" ADD CONSTRAINT "charges_amount_check" CHECK ("charges"."amount" > 0);--> statement-breakpoint
ALTER TABLE "charges" ADD CONSTRAINT "charges_status_check" CHECK (CASE "charges"."purpose" WHEN 'charge' THEN "charges"."status" IN ('pending', 'sent', 'authorized', 'capturing', 'captured',
        'declined', 'unavailable', 'released', 'lost') WHEN 'refund' THEN "charges"."status" IN ('pending', 'refunded', 'released')
        ELSE false END);--> statement-breakpoint
ALTER TABLE "commands" ADD CONSTRAINT "commands_command_check" CHECK ("commands"."command" IN ('confirm', 'cancel', 'refund', 'paid', 'unpaid') OR "commands"."booking" IS NOT NULL AND "commands"."command" IN ('accept', 'decline', 'complete'));--> statement-breakpoint
ALTER TABLE "resources" ADD CONSTRAINT "resources_limit_check" CHECK ("resources"."max_per_customer" IS NULL OR ("resources"."max_per_customer" > 0 AND "resources"."limited_at" IS NOT NULL));--> statement-breakpoint
-- The outcome of a charge or a refund never changes.
CREATE TRIGGER charges_terminal BEFORE UPDATE OF status ON charges FOR EACH ROW
  WHEN (NEW.status IS DISTINCT FROM OLD.status AND (
    OLD.status IN ('captured', 'declined', 'unavailable', 'released', 'refunded', 'lost') OR NEW.status = 'pending'))
  EXECUTE FUNCTION holdfast_refuse();
--> statement-breakpoint
-- A refund is of a charge that there is, and never of more than it.
CREATE FUNCTION holdfast_refund_fits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM charges c WHERE c.purchase = NEW.purchase AND c.purpose = 'charge'
                 AND c.amount >= NEW.amount AND c.currency = NEW.currency) THEN
    RAISE EXCEPTION 'a refund of % exceeds its charge', NEW.amount USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$;
--> statement-breakpoint
CREATE TRIGGER charges_refund_fits BEFORE INSERT OR UPDATE OF amount ON charges FOR EACH ROW
  WHEN (NEW.purpose = 'refund')
  EXECUTE FUNCTION holdfast_refund_fits();
--> statement-breakpoint
-- A customer's units rise to the limit and no further; a limit that was lowered later takes nothing away.
CREATE FUNCTION holdfast_limit_holds() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.units > (SELECT max_per_customer FROM resources WHERE ref = NEW.resource) THEN
    RAISE EXCEPTION 'the limit of % per customer is exceeded', NEW.resource
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$;
--> statement-breakpoint
CREATE TRIGGER customer_units_limit BEFORE UPDATE OF units ON customer_units FOR EACH ROW
  WHEN (NEW.units > OLD.units)
  EXECUTE FUNCTION holdfast_limit_holds();
