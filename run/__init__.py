"""What every command needs and no student must read. It knows neither what a corpus is nor what a λ is."""
