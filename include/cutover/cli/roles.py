"""The command ``roles``: Airflow's roles and their members, from the plan's people."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from include.cutover.accounts import roles as account_roles
from include.cutover.accounts.roles import Found
from include.cutover.people.roles import DAGS, ROLES, Accounts, persons, role_name
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan

console = Console(highlight=False)
app = typer.Typer(help="Roles in Airflow, from the plan's people.", no_args_is_help=True)

DONE, DIFFERS = 0, 1

PlanName = Annotated[str, typer.Option("--plan", help="Name of the plan.")]


@app.command()
def apply(plan: PlanName) -> None:
    """Make the plan's roles with exactly their rights, and give them to its people. Status 1 where somebody has no account.

    Runs where Airflow's metadata database can be reached. Accounts and log-ins are the site's: people that do not exist yet
    are told. Calling it again changes nothing.
    """
    wanted = load_plan(plan)
    raise typer.Exit(_tell(wanted, account_roles.apply(Accounts.of([wanted]))))


@app.command()
def show(plan: PlanName) -> None:
    """Say who has which role, what each may do, and what is not as the plan says. Status 1 where something is not."""
    wanted = load_plan(plan)
    raise typer.Exit(_tell(wanted, account_roles.look(Accounts.of([wanted]))))


def _tell(plan: Plan, found: Found) -> int:
    console.print(f"[bold]{escape(plan.application)}[/]")
    for role, members in persons(plan.people).items():
        for person in members:
            account = f"id {found.ids[person.user]}" if person.user in found.ids else "no account"
            console.print(f"  {role:14}{escape(person.name)} ({escape(person.user)}), {account}", soft_wrap=True)
    console.print(f"\n  {'DAG':32}" + "".join(f"{role:14}" for role in ROLES))
    for verb, starters in DAGS.items():
        may = "".join(f"{'starts' if role in starters else 'looks':14}" for role in ROLES)
        console.print(f"  {f'{verb}_{plan.name}':32}{may}", soft_wrap=True)
    console.print(f"\n  Roles in Airflow: {', '.join(role_name(plan.name, role) for role in ROLES)}", soft_wrap=True)
    for user, others in found.others.items():
        if others:
            told = f"  {user} also has {', '.join(others)}, and so what these allow"
            console.print(f"[yellow]{escape(told)}[/]", soft_wrap=True)
    differences = found.differs(Accounts.of([plan]))
    for difference in differences:
        console.print(f"[red]  {escape(difference)}[/]", soft_wrap=True)
    if differences:
        console.print("\nMake the accounts that are missing, then call 'roles apply'.", soft_wrap=True)
    return DIFFERS if differences else DONE
